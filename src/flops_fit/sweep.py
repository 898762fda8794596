"""The sweep: which experiments answer the question, as plain arithmetic on N, D and C."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

COUNTED, SIX_ND = "counted", "6nd"
ONLY_WHERE_MEASURED = ("flops_per_position", "expected_items")
FEWEST_SIZES = 5  # of a curve whose minimum can be told from its sides


@dataclass(frozen=True)
class Experiment:
    """One training run of the grid.

    ``experiment_id``: its name in the results. ``compute_budget``: the FLOPs that asked for it.
    ``size_param_value``: the size. ``num_params``: the model's own N, behind 6 N D.
    ``num_tokens``: D in target elements, exactly what is trained, of which an item brings
    ``tokens_per_item``. ``seed``: of weights and order. ``batch_items``: the global batch.
    ``steps``: of the optimiser. ``learning_rate``: the peak. ``flops_per_token``, ``params``,
    ``params_nonembedding``, ``params_total``, ``count_method``, ``activation_bytes``: as
    `ModelCount` has them (``count_method`` is its ``method``; 0 FLOPs where nothing was counted).

    Where targets are ignored or items differ, ``tokens_per_item`` is a mean,
    ``flops_per_position`` as `ModelCount` has it, and ``expected_items`` how many items D is
    expected to take (None where items keep all their targets: D is then whole items).
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
    flops_per_token: float = 0.0
    params: int = 0
    params_nonembedding: int = 0
    params_total: int = 0
    count_method: str = ""
    activation_bytes: float = 0.0
    flops_per_position: float | None = None
    expected_items: int | None = None

    def fields(self) -> dict[str, Any]:
        """Its fields by name, without those that say nothing of an ordinary sweep."""
        return {
            k: v for k, v in vars(self).items() if v is not None or k not in ONLY_WHERE_MEASURED
        }

    @property
    def flops_6nd(self) -> float:
        """6 N D with ``num_params`` and ``num_tokens``."""
        return 6.0 * self.num_params * self.num_tokens

    @property
    def flops_counted(self) -> float:
        """``flops_per_token`` x D; 0 where nothing was counted."""
        return self.flops_per_token * self.num_tokens


@dataclass(frozen=True)
class Skipped:
    """The cell of the grid at ``compute_budget`` FLOPs and ``size_param_value`` that is not trained.

    ``reason``: why, as a sentence.
    """

    compute_budget: float
    size_param_value: Any
    reason: str


@dataclass(frozen=True)
class SweepPlan:
    """The sweep: its ``experiments``, the cells that were ``skipped``, and ``warnings`` in words."""

    experiments: list[Experiment]
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.experiments)

    @property
    def total_flops(self) -> float:
        """FLOPs of all experiments as counted, or 6 N D where nothing was counted."""
        return sum(e.flops_counted or e.flops_6nd for e in self.experiments)

    def table(self):
        """The plan as a `pandas.DataFrame`, one row per experiment."""
        import pandas as pd

        rows = [
            {
                **e.fields(),
                "flops_6nd": e.flops_6nd,
                "flops_counted": e.flops_counted,
                "tokens_per_param": e.num_tokens / e.num_params,
            }
            for e in self.experiments
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        budgets = sorted({e.compute_budget for e in self.experiments})
        return (
            f"SweepPlan({len(self)} experiments, {len(budgets)} budgets, "
            f"{self.total_flops:.3g} FLOPs, {len(self.skipped)} cells skipped)"
        )


def spent_flops(record: Mapping[str, Any]) -> float:
    """The FLOPs that a run really spent, as counted.

    ``record``: ``tokens_seen`` and ``flops_per_token``; where the loss ignores targets or items differ
    in length, ``input_positions`` and ``flops_per_position``, which then decide.
    """
    if record.get("flops_per_position") is None:
        return record["flops_per_token"] * record["tokens_seen"]
    return record["flops_per_position"] * record["input_positions"]


def flops_of(planned: Mapping[str, Any], outcome: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of a run's positions and FLOPs; ``planned`` has the counts of its size.

    Where positions decide, the FLOPs that were expected stand beside those that were spent.
    """
    tokens = outcome["tokens_seen"]
    flops: dict[str, Any] = {
        "flops_6nd": 6.0 * outcome["num_params"] * tokens,
        "flops_counted": spent_flops({**planned, **outcome}),
    }
    if planned.get("flops_per_position") is not None:
        flops["input_positions"] = outcome["input_positions"]
        flops["flops_expected"] = planned["flops_per_token"] * tokens
    return flops


def n_key(convention: str, params: str = "params") -> str:
    """The count of a model that is N where a table or a fit names ``params``.

    Where budgets mean 6 N D, N is the model's own (``num_params``), as in the cost: a law in another
    N would not be the law of its budgets. Any other count that is asked for by name stays.
    """
    return "num_params" if convention == SIX_ND and params == "params" else params


def flops_per_token(count, convention: str) -> float:
    """FLOPs per token of a `ModelCount` under a counting convention: counted, or 6 N."""
    return count.flops_per_token if convention == COUNTED else 6.0 * count.num_params


def plan_sweep(
    sizes: Mapping[float, Sequence],
    counts: Mapping[Any, Any],
    tokens_per_item: float,
    *,
    seeds: Sequence[int] = (0,),
    convention: str = COUNTED,
    batch_tokens: Callable[..., float],
    learning_rate: Callable[..., float],
    batch_multiple: int = 1,
    rate_factors: Sequence[float] = (1,),
    min_steps: int = 8,
    name: Callable[[dict], str],
    in_batch: Callable[[Any, int], Any] | None = None,
    ignored: bool = False,
) -> SweepPlan:
    """Lay out the IsoFLOP grid.

    ``sizes``: size values by compute budget in FLOPs. ``counts``: the `ModelCount` of every size.
    ``tokens_per_item``: target elements that an item brings. ``convention``: what a budget means,
    ``counted`` FLOPs or ``6nd``. ``batch_multiple``: the global batch is a whole multiple of this
    many items. ``batch_tokens`` (the global batch) and ``learning_rate``: functions of ``params,
    tokens, size``. ``name`` turns the fields of an experiment into its id. D is the budget over
    FLOPs per token, rounded to whole global batches; cells of fewer than ``min_steps`` steps are
    skipped with a reason. Every cell is trained at each of ``seeds`` and each of ``rate_factors``
    times its learning rate.

    ``in_batch(size, batch_items)``: the `ModelCount` in such a batch, where costs depend on it.
    ``ignored``: whether items keep only a part of their targets, or differ in them;
    ``tokens_per_item`` is then a mean.
    """
    experiments: list[Experiment] = []
    skipped: list[Skipped] = []
    taken: dict[tuple, float] = {}
    for budget, values in sizes.items():
        for size in values:
            cell = _cell(
                budget,
                size,
                counts[size],
                tokens_per_item,
                convention,
                batch_tokens,
                learning_rate,
                batch_multiple,
                in_batch,
                ignored,
            )
            if cell["steps"] < min_steps:
                skipped.append(Skipped(budget, size, _too_short(cell, min_steps)))
                continue
            for seed, factor in itertools.product(seeds, rate_factors):
                rate = cell["learning_rate"] * factor
                fields = {**cell, "seed": seed, "learning_rate": rate}
                key = (size, cell["num_tokens"], cell["batch_items"], seed, rate)
                if key in taken:
                    reason = f"the same experiment as at budget {taken[key]:g}: D rounds to equal"
                    skipped.append(Skipped(budget, size, reason))
                    continue
                taken[key] = budget
                experiments.append(Experiment(experiment_id=name(fields), **fields))
    return SweepPlan(experiments, skipped)


def _cell(
    budget,
    size,
    count,
    tokens_per_item,
    convention,
    batch_rule,
    rate_rule,
    multiple,
    in_batch,
    ignored,
) -> dict:
    wanted = budget / flops_per_token(count, convention)
    factors = {"params": count.params, "tokens": wanted, "size": size}
    items = batch_rule(**factors) / tokens_per_item / multiple
    batch_items = max(1, round(items)) * multiple
    if in_batch is not None:
        count = in_batch(size, batch_items)
        wanted = budget / flops_per_token(count, convention)
    steps = max(round(wanted / (batch_items * tokens_per_item)), 0)
    tokens = round(steps * batch_items * tokens_per_item)
    return {
        "compute_budget": budget,
        "size_param_value": size,
        "num_params": count.num_params,
        "num_tokens": tokens,
        "batch_items": batch_items,
        "tokens_per_item": tokens_per_item,
        "steps": steps,
        "learning_rate": rate_rule(**{**factors, "tokens": tokens or wanted}),
        "flops_per_token": count.flops_per_token,
        "params": count.params,
        "params_nonembedding": count.params_nonembedding,
        "params_total": count.params_total,
        "count_method": count.method,
        "activation_bytes": count.activation_bytes,
        "flops_per_position": count.flops_per_position,
        "expected_items": steps * batch_items if ignored else None,
    }


def _too_short(cell: dict, min_steps: int) -> str:
    return (
        f"{cell['steps']} steps of {cell['batch_items']:.6g} items; the floor is {min_steps} "
        "(limits.min_steps): a smaller batch or a larger budget would lift it"
    )


def _at_most(limit: float, tokens: float, ratio: float) -> bool:
    return ratio <= limit


def window_sizes(
    budget: float,
    flops_and_params: Callable[[int], tuple[float, int]],
    *,
    tokens_per_param: Sequence[float] = (2, 200),
    count: int = 7,
    multiple: int = 1,
    max_size: int = 1 << 20,
    min_tokens: float = 0,
) -> list[int]:
    """Integer size values, even in ln N, whose curve spans ``tokens_per_param`` at ``budget``.

    ``flops_and_params(size)`` gives FLOPs per token and N, both rising with the size. The range
    straddles the optima that published laws find (about 20, Hoffmann et al. 2022). About ``count``
    sizes come back, all multiples of ``multiple`` and at most ``max_size``. Sizes whose D
    falls below ``min_tokens`` are left out while smaller ones can take their place; where whole
    numbers are too coarse for five sizes, neighbours fill up.
    """
    low, high = sorted(tokens_per_param)
    most = max_size // multiple  # below, sizes are counted in multiples

    def tokens_and_ratio(size: int) -> tuple[float, float]:
        flops, params = flops_and_params(size * multiple)
        return budget / flops, budget / flops / params

    def first(wanted: Callable[[float, float], bool]) -> int:
        """The smallest size from which ``wanted(D, D / N)`` holds (a bisection)."""
        below, above = 0, 1
        while above < most and not wanted(*tokens_and_ratio(above)):
            below, above = above, min(above * 2, most)
        while above - below > 1:
            middle = (above + below) // 2
            below, above = (below, middle) if wanted(*tokens_and_ratio(middle)) else (middle, above)
        return above

    too_large = first(lambda tokens, ratio: tokens < min_tokens or ratio < low)
    largest = max(too_large - 1, 1)
    smallest = min(first(lambda tokens, ratio: ratio <= high), largest)
    if smallest > largest // 2:  # the floor cuts into the window: look further down instead
        smallest = max(largest // 8, 1)
    top, bottom = tokens_and_ratio(smallest)[1], tokens_and_ratio(largest)[1]
    ratios = [top * (bottom / top) ** (i / (count - 1)) for i in range(1, count - 1)]
    sizes = {smallest, largest, *(first(partial(_at_most, limit)) for limit in ratios)}
    while len(sizes) < FEWEST_SIZES and max(sizes) < most:
        sizes.add(max(sizes) + 1 if min(sizes) == 1 or max(sizes) < largest else min(sizes) - 1)
    return [size * multiple for size in sorted(sizes)]
