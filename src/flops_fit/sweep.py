"""The sweep: which experiments answer the question, as plain arithmetic on N, D and C."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from flops_fit.batch import Batches, planned_batches
from flops_fit.constants import flops_6nd

if TYPE_CHECKING:
    import pandas as pd

COUNTED, SIX_ND = "counted", "6nd"  # what a budget means: FLOPs as counted, or 6 N D


@dataclass(frozen=True)
class ModelCount:
    """What one size of a model holds and costs.

    Attributes:
        num_params: N as the model's ``num_params()`` gives it, else its trainable parameters.
        params: the trainable matmul parameters that a token meets: the output head is included,
            embedding look-ups are not, experts count by their share of the tokens.
        params_nonembedding: ``params`` without the projections onto an embedding's vocabulary.
        params_total: all trainable parameters, shared ones once.
        flops_per_token: FLOPs of the forward and the backward pass per target element.
        method: "meta" (run on the meta device), "cpu" (run on the CPU, or extrapolated from sizes
            that were), "model" (the model's own ``flops_per_token()``), "none" or "" (not counted).
        warnings: sentences to read before the figures are trusted.
        activation_bytes: for the estimate of memory, the most bytes per target element that a step
            takes beside weights, gradients and states of the optimiser, trained as a plan has it; where
            that was not measured, those that autograd keeps in fp32 with the full square of attention;
            0 where the model could not be run.
        fixed_bytes: what it takes for any batch, which are copies of weights in 16 bits.
        evaluation_bytes: the most that a batch of the evaluation takes (0: not measured).
        flops_per_position: FLOPs per element of the inputs, where targets are ignored or items
            differ in length, so that the positions of a run decide what it spent; else None.
    """

    num_params: int
    params: int
    params_nonembedding: int
    params_total: int
    flops_per_token: float
    method: str
    warnings: tuple[str, ...] = ()
    activation_bytes: float = 0.0
    flops_per_position: float | None = None
    fixed_bytes: int = 0
    evaluation_bytes: float = 0.0

    def spent_flops(self, tokens: float, positions: float | None = None) -> float:
        """The counted FLOPs of a run that has seen ``tokens`` target elements.

        ``positions``: the elements of its inputs, which decide where the count has
        ``flops_per_position``.
        """
        if self.flops_per_position is None or positions is None:
            return self.flops_per_token * tokens
        return self.flops_per_position * positions

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "ModelCount":
        """The count that ``row``, of a plan, a spec or a record, holds; what is missing is 0."""
        return cls(
            num_params=row["num_params"],
            params=row.get("params", 0),
            params_nonembedding=row.get("params_nonembedding", 0),
            params_total=row.get("params_total", 0),
            flops_per_token=row.get("flops_per_token", 0.0),
            method=row.get("count_method", ""),
            activation_bytes=row.get("activation_bytes", 0.0),
            flops_per_position=row.get("flops_per_position"),
            fixed_bytes=row.get("fixed_bytes", 0),
            evaluation_bytes=row.get("evaluation_bytes", 0.0),
        )

    def to_dict(self, tokens_per_item: float | None = None) -> dict[str, Any]:
        """The count as plans, specs and records hold it; `from_dict` reads it.

        Specs and records hold ``tokens_per_item``, the target elements of an item, beside it.
        """
        row = {
            "num_params": self.num_params,
            "params": self.params,
            "params_nonembedding": self.params_nonembedding,
            "params_total": self.params_total,
            "flops_per_token": self.flops_per_token,
            "count_method": self.method,
            "tokens_per_item": tokens_per_item,
            "activation_bytes": self.activation_bytes,
            "flops_per_position": self.flops_per_position,
            "fixed_bytes": self.fixed_bytes or None,
            "evaluation_bytes": self.evaluation_bytes or None,
        }
        return {name: value for name, value in row.items() if value is not None}


Seeds = Sequence[int] | Mapping[float, Sequence[int]]  # of every cell, or by budget
NOT_COUNTED = ModelCount(0, 0, 0, 0, 0.0, "")


@dataclass(frozen=True)
class Experiment:
    """One training run of the grid.

    Attributes:
        experiment_id: its name in the results.
        compute_budget: the FLOPs of the budget that asked for it.
        size_param_value: the value of the size parameter.
        num_params: the model's own N, the one of 6 N D.
        num_tokens: D in target elements, exactly what is trained.
        seed: of the weights and of the order of the data.
        batch_items: the global batch of the first step in items (0: the caller decides).
        tokens_per_item: target elements of an item, a mean where targets are ignored or items differ.
        steps: steps of the optimiser.
        learning_rate: the peak of the learning rate (0: the caller decides).
        expected_items: how many items D is expected to take, where targets are ignored or items
            differ; None where items keep all their targets, since D is then whole items.
        count: what its size holds and costs (`NOT_COUNTED` where nothing was counted).
        hash: the hash of what decides its result (empty where it was not hashed).
        weight_decay: of the optimiser, where the sweep decides it (None: the optimiser does).
        unique_fraction: the share of the training items that the run sees (None: all).
        batch_growth: where the batch grows, as `Batches` has it; empty where it is one for all steps.
    """

    experiment_id: str
    compute_budget: float
    size_param_value: Any
    num_params: int
    num_tokens: int
    seed: int = 0
    batch_items: int = 0
    tokens_per_item: float = 1
    steps: int = 0
    learning_rate: float = 0.0
    expected_items: int | None = None
    count: ModelCount = NOT_COUNTED
    hash: str = ""
    weight_decay: float | None = None
    unique_fraction: float | None = None
    batch_growth: list[list[int]] = field(default_factory=list, hash=False)

    @property
    def batches(self) -> Batches:
        """The global batch of each step."""
        return Batches(self.batch_items, self.batch_growth)

    @property
    def share(self) -> float:
        """The share of the training items that it sees."""
        return 1.0 if self.unique_fraction is None else self.unique_fraction

    @property
    def items(self) -> int:
        """The items that D is expected to take."""
        return self.expected_items or round(self.num_tokens / self.tokens_per_item)

    @property
    def flops_6nd(self) -> float:
        """6 N D with ``num_params`` and ``num_tokens``."""
        return flops_6nd(self.num_params, self.num_tokens)

    @property
    def flops_counted(self) -> float:
        """FLOPs per token as counted x D; 0 where nothing was counted."""
        return self.count.spent_flops(self.num_tokens)

    def to_dict(self) -> dict[str, Any]:
        """The experiment as a flat row of a plan; `from_dict` reads it."""
        count = {**self.count.to_dict(), "num_params": self.num_params}
        per_position = count.pop("flops_per_position", None)
        row = {
            "experiment_id": self.experiment_id,
            "compute_budget": self.compute_budget,
            "size_param_value": self.size_param_value,
            "num_params": count.pop("num_params"),
            "num_tokens": self.num_tokens,
            "seed": self.seed,
            "batch_items": self.batch_items,
            "tokens_per_item": self.tokens_per_item,
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "unique_fraction": self.unique_fraction,
            "flops_per_token": count.pop("flops_per_token"),
            **count,
            "flops_per_position": per_position,
            "expected_items": self.expected_items,
            "batch_growth": self.batch_growth or None,
            "hash": self.hash or None,
            "flops_6nd": self.flops_6nd,
            "flops_counted": self.flops_counted,
        }
        absent = (  # of an ordinary sweep
            *("flops_per_position", "expected_items", "batch_growth", "hash"),
            *("weight_decay", "unique_fraction"),
        )
        return {k: v for k, v in row.items() if v is not None or k not in absent}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "Experiment":
        """The experiment of a ``row`` that `to_dict` made; FLOPs are computed, not read."""
        names = [f.name for f in fields(cls) if f.name != "count" and f.name in row]
        return cls(**{name: row[name] for name in names}, count=ModelCount.from_dict(row))


@dataclass(frozen=True)
class Skipped:
    """A cell of the grid that is not trained.

    ``compute_budget`` in FLOPs and ``size_param_value`` name the cell; ``reason`` is a sentence.
    """

    compute_budget: float
    size_param_value: Any
    reason: str


@dataclass(frozen=True)
class CountedSize:
    """A size that no experiment has, counted because answers beyond the grid need its cost.

    ``size_param_value`` is its value, ``count`` what it holds and costs.
    """

    size_param_value: int
    count: ModelCount

    def to_dict(self) -> dict[str, Any]:
        """The size as a flat row of a plan; `from_dict` reads it."""
        return {"size_param_value": self.size_param_value, **self.count.to_dict()}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "CountedSize":
        """The size of a ``row`` that `to_dict` made."""
        return cls(row["size_param_value"], ModelCount.from_dict(row))

    def in_table(self, convention: str, params: str) -> dict[str, Any]:
        """The size in the columns of the table that is fitted.

        N is the count ``params`` (a column), and FLOPs per token follow the ``convention``.
        """
        return {
            "size": self.size_param_value,
            "params": getattr(self.count, n_key(convention, params)),
            "params_nonembedding": self.count.params_nonembedding,
            "params_total": self.count.params_total,
            "flops_per_token": flops_per_token(self.count, convention),
            **({"params_matmul": self.count.params} if params != "params" else {}),
        }


@dataclass(frozen=True)
class Variant:
    """How a run differs from the others of its cell.

    ``learning_rate``, ``batch`` and ``weight_decay`` are factors on what the rules give;
    ``unique_fraction`` is the share of the training items that the run sees (None: all).
    """

    learning_rate: float = 1
    batch: float = 1
    weight_decay: float = 1
    unique_fraction: float | None = None


def no_variants(cell: int, budget: float) -> list[Variant]:
    """The one run of an ordinary cell, whatever its number ``cell`` and its ``budget`` in FLOPs."""
    return [Variant()]


@dataclass(frozen=True)
class SweepPlan:
    """The grid of a sweep.

    ``experiments`` are trained; ``skipped`` cells are not; ``warnings`` are sentences; ``beyond``
    are sizes above the grid that were counted only.
    """

    experiments: list[Experiment]
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    beyond: list[CountedSize] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.experiments)

    @property
    def total_flops(self) -> float:
        """FLOPs of all experiments as counted, or 6 N D where nothing was counted."""
        return sum(e.flops_counted or e.flops_6nd for e in self.experiments)

    def table(self) -> "pd.DataFrame":
        """The plan as a `pandas.DataFrame`, one row per experiment."""
        import pandas as pd

        rows = [
            {**e.to_dict(), "tokens_per_param": e.num_tokens / e.num_params}
            for e in self.experiments
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        budgets = sorted({e.compute_budget for e in self.experiments})
        return (
            f"SweepPlan({len(self)} experiments, {len(budgets)} budgets, "
            f"{self.total_flops:.3g} FLOPs, {len(self.skipped)} cells skipped)"
        )


def n_key(convention: str, params: str = "params") -> str:
    """The count of a model that is N, where a table or a fit asks for ``params``.

    Under the ``convention`` 6 N D, N is the model's own (``num_params``), as in the cost: a law in
    another N would not be the law of its budgets. Any other count that is asked for by name stays.
    """
    return "num_params" if convention == SIX_ND and params == "params" else params


def flops_per_token(count: ModelCount, convention: str) -> float:
    """FLOPs per token of ``count`` under a counting ``convention``: counted, or 6 N."""
    return count.flops_per_token if convention == COUNTED else flops_6nd(count.num_params, 1)


def seeds_at(seeds: Seeds, budget: float) -> Sequence[int]:
    """The ``seeds`` of the cells at a ``budget`` in FLOPs.

    A budget that a mapping does not name has those of the largest one.
    """
    if not isinstance(seeds, Mapping):
        return seeds
    return seeds[budget if budget in seeds else max(seeds)]


def plan_sweep(
    sizes: Mapping[float, Sequence],
    counts: Mapping[Any, ModelCount],
    tokens_per_item: float,
    *,
    seeds: Seeds = (0,),
    convention: str = COUNTED,
    batch_tokens: Callable[..., float],
    learning_rate: Callable[..., float],
    weight_decay: Callable[..., float] | None = None,
    batch_multiple: int = 1,
    batch_seen: Mapping[str, float] | None = None,
    variants: Callable[[int, float], Sequence[Variant]] = no_variants,
    min_steps: int = 8,
    name: Callable[[Experiment], str],
    in_batch: Callable[[Any, int], ModelCount] | None = None,
    ignored: bool = False,
) -> SweepPlan:
    """Lay out the IsoFLOP grid.

    D is the budget divided by the FLOPs per token, rounded to whole global batches. Cells of fewer
    than ``min_steps`` steps are skipped with a reason.

    Args:
        sizes: the size values by compute budget in FLOPs.
        counts: the `ModelCount` of every size.
        tokens_per_item: target elements that an item brings.
        seeds: every cell is trained once with each; a mapping gives them by budget.
        convention: what a budget means, ``counted`` FLOPs or ``6nd`` (6 N D).
        batch_tokens: gives the global batch in target elements, a function of ``params, tokens,
            size``.
        learning_rate: gives the peak learning rate, a function of the same.
        weight_decay: gives the weight decay, a function of the same (None: the optimiser decides).
        batch_multiple: the global batch is a whole multiple of this many items.
        batch_seen: how the batch grows with the tokens seen, see `planned_batches` (None: it does not).
        variants: ``variants(cell, budget)`` gives the runs of the cell of that number, from 0, at
            that budget. All of them have one D, so that their losses compare: with another batch,
            the last one may be smaller. A batch that grows has no variants of the batch.
        min_steps: the fewest optimiser steps of a run.
        name: gives the id of an experiment that has none yet.
        in_batch: ``in_batch(size, batch_items)`` is the `ModelCount` in such a batch, where costs
            depend on it.
        ignored: whether items differ in the targets that they keep (``tokens_per_item``: the mean).
    """
    cell_of = partial(
        _cell,
        tokens_per_item=tokens_per_item,
        convention=convention,
        batch_rule=batch_tokens,
        batches_of=partial(
            planned_batches, multiple=batch_multiple, seen=batch_seen, per_item=tokens_per_item
        ),
        rate_rule=learning_rate,
        decay_rule=weight_decay,
        in_batch=in_batch,
        ignored=ignored,
    )
    experiments: list[Experiment] = []
    skipped: list[Skipped] = []
    budget_of: dict[tuple, float] = {}
    number = itertools.count()
    for budget, values in sizes.items():
        for size in values:
            cell = cell_of(budget, size, counts[size])
            if reason := _too_short(cell, min_steps):
                skipped.append(Skipped(budget, size, reason))
                continue
            here = seeds_at(seeds, budget)
            for seed, variant in itertools.product(here, variants(next(number), budget)):
                new = _varied(replace(cell, seed=seed), variant, batch_multiple, in_batch)
                if reason := _too_short(new, min_steps) or _planned_before(new, budget_of):
                    skipped.append(Skipped(budget, size, reason))
                else:
                    experiments.append(replace(new, experiment_id=name(new)))
    return SweepPlan(experiments, skipped)


def _cell(
    budget: float,
    size: Any,
    count: ModelCount,
    *,
    tokens_per_item: float,
    convention: str,
    batch_rule: Callable[..., float],
    batches_of: Callable[..., Batches],
    rate_rule: Callable[..., float],
    decay_rule: Callable[..., float] | None,
    in_batch: Callable[[Any, int], ModelCount] | None,
    ignored: bool,
) -> Experiment:
    """The experiment of a cell, without its id, its seed and the factor on its learning rate."""
    asked = budget / flops_per_token(count, convention)
    factors = {"params": count.params, "tokens": asked, "size": size}
    batch = batch_rule(**factors) / tokens_per_item
    batches = batches_of(batch, end=asked / tokens_per_item)
    if in_batch is not None:
        count = in_batch(size, batches.last)
        asked = budget / flops_per_token(count, convention)
        batches = batches_of(batch, end=asked / tokens_per_item)
    items = batches.nearest(asked / tokens_per_item)
    batches, tokens = batches.until(items), round(items * tokens_per_item)
    factors["tokens"] = tokens or asked
    return Experiment(
        experiment_id="",
        compute_budget=budget,
        size_param_value=size,
        num_params=count.num_params,
        num_tokens=tokens,
        batch_items=batches.first,
        batch_growth=[[*stage] for stage in batches.growth],
        tokens_per_item=tokens_per_item,
        steps=round(batches.steps(items)),
        learning_rate=rate_rule(**factors),
        expected_items=items if ignored else None,
        count=count,
        weight_decay=None if decay_rule is None else decay_rule(**factors),
    )


def _varied(
    cell: Experiment,
    variant: Variant,
    multiple: int,
    in_batch: Callable[[Any, int], ModelCount] | None,
) -> Experiment:
    """One run of a ``cell``: its D with another rate, batch, weight decay or share of the data."""
    decay = cell.weight_decay
    cell = replace(
        cell,
        learning_rate=cell.learning_rate * variant.learning_rate,
        weight_decay=None if decay is None else decay * variant.weight_decay,
        unique_fraction=variant.unique_fraction,
    )
    items = max(1, round(cell.batch_items * variant.batch / multiple)) * multiple
    if items == cell.batch_items:
        return cell
    count = cell.count if in_batch is None else in_batch(cell.size_param_value, items)
    steps = math.ceil(cell.steps * cell.batch_items / items)
    return replace(cell, batch_items=items, steps=steps, count=count)


def _planned_before(new: Experiment, budget_of: dict[tuple, float]) -> str:
    """Why ``new`` is no new experiment; if it is one, ``budget_of`` gets its budget."""
    key = (
        *(new.size_param_value, new.num_tokens, new.batch_items, new.seed),
        *(new.learning_rate, new.weight_decay, new.unique_fraction),
    )
    if key not in budget_of:
        budget_of[key] = new.compute_budget
        return ""
    rounded = "D" if budget_of[key] != new.compute_budget else "the batch"
    return f"the same experiment as at budget {budget_of[key]:g}: {rounded} rounds to equal"


def _too_short(cell: Experiment, min_steps: int) -> str:
    if cell.steps >= min_steps:
        return ""
    return (
        f"{cell.steps} steps of {cell.batches.last:.6g} items; the floor is {min_steps} "
        "(limits.min_steps): a smaller batch or a larger budget would lift it"
    )
