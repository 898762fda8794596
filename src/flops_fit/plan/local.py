"""The grid of a sweep of the Python API: sizes by budget, counted with the caller's objects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import nn

from flops_fit.data import Data, first_item
from flops_fit.errors import FlopsFitError
from flops_fit.model_factory import create_model, create_on_meta, num_params
from flops_fit.plan.beyond import count_beyond
from flops_fit.plan.costs import Costs
from flops_fit.plan.counting import count_warnings
from flops_fit.plan.items import measure_items, stated_items
from flops_fit.plan.script_costs import ScriptCosts
from flops_fit.plan.window import window_sizes
from flops_fit.sweep import (
    COUNTED,
    SIX_ND,
    Experiment,
    ModelCount,
    SweepPlan,
    flops_per_token,
    plan_sweep,
)

MIN_STEPS = 8
MULTIPLES = (1, 2, 4, 8, 16, 32, 64)


@dataclass
class LocalSweep:
    """The sweep that a call of `find_optimal` asks for.

    ``model_cls``, called with ``size_param`` and ``kwargs``, makes a model; ``data`` and ``loss_fn``
    train it (None: only plan). ``budgets`` in FLOPs mean what ``convention`` says, each with the
    ``sizes`` (None: a window) and ``seeds``. ``batch_size`` is in items, ``learning_rate`` the peak.
    ``stated`` are the costs of a function that trains in the place of our trainer, where the user
    states them; an item then brings ``tokens_per_item`` tokens.
    ``known`` are the counts of the sizes that were looked at so far.
    """

    model_cls: Callable[..., nn.Module] | None
    size_param: str | None
    kwargs: dict[str, Any]
    data: Data | None
    loss_fn: Callable[..., Any] | None
    convention: str
    budgets: list[float]
    sizes: Sequence | None
    seeds: Sequence[int]
    batch_size: int
    learning_rate: float
    stated: ScriptCosts | None = None
    tokens_per_item: int = 1
    known: dict[Any, ModelCount] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse a convention that is not allowed (raises `FlopsFitError`)."""
        if self.convention not in (SIX_ND, COUNTED):
            raise FlopsFitError(
                f"convention: {self.convention!r} given; allowed: {SIX_ND}, {COUNTED}"
            )
        counts = self.stated or (self.data is not None and self.loss_fn is not None)
        if self.convention == COUNTED and not counts:
            raise FlopsFitError(
                "convention: 'counted' needs a dataset and a loss to count with (counts, with train_fn)"
            )

    @cached_property
    def costs(self) -> Costs | ScriptCosts | None:
        """Costs on the items of the data; a stream that reads once is left to the training."""
        if self.stated is not None:
            return self.stated
        if self.data is None or self.loss_fn is None:
            return None
        assert self.model_cls is not None
        assert self.size_param is not None
        example = first_item(self.data)
        if self.data.read_once:
            items = stated_items({}, example, self.loss_fn)
        else:
            items = measure_items(self.data, self.loss_fn)
        return Costs(
            self.model_cls, self.size_param, self.kwargs, self.loss_fn, example, items, self.data
        )

    def plan(self) -> SweepPlan:
        """The grid of the sweep."""
        per_item = self.tokens_per_item if self.costs is None else self.costs.items.tokens
        batch_tokens = self.batch_size * per_item
        if self.sizes is None:
            grid = self._default_grid(batch_tokens)
        else:
            grid = {budget: list(self.sizes) for budget in self.budgets}
        plan = plan_sweep(
            grid,
            self.count(sorted({size for values in grid.values() for size in values})),
            per_item,
            seeds=self.seeds,
            convention=self.convention,
            batch_tokens=lambda **_: batch_tokens,
            learning_rate=lambda **_: self.learning_rate,
            min_steps=MIN_STEPS,
            name=_name,
            in_batch=None if self.costs is None else self.costs.in_batch,
            ignored=self.costs is not None and self.costs.items.ignored,
        )
        if self.costs is None:
            return plan
        beyond = []
        if self.convention == COUNTED:
            beyond = count_beyond(self.costs, plan.experiments)
        used = {e.size_param_value: e.count for e in plan.experiments}
        warnings = count_warnings(used, self.size_param or "size", self.convention)
        return replace(plan, warnings=[*warnings, *self.costs.warnings()], beyond=beyond)

    def count(self, sizes: Sequence) -> dict[Any, ModelCount]:
        """The count of every one of ``sizes``, and of those counted before."""
        new = [size for size in sizes if size not in self.known]
        if new and self.costs is not None:
            self.known.update(self.costs.of(new))
        else:
            self.known.update({size: self._count_one(size) for size in new})
        return self.known

    def _default_grid(self, batch_tokens: float) -> dict[float, list]:
        def flops_and_params(size: int) -> tuple[float, int]:
            counted = self.count([size])[size]
            return flops_per_token(counted, self.convention), counted.num_params

        multiple = self._buildable_multiple()
        return {
            budget: window_sizes(
                budget, flops_and_params, multiple=multiple, min_tokens=MIN_STEPS * batch_tokens
            )
            for budget in self.budgets
        }

    def _buildable_multiple(self) -> int:
        """The smallest of `MULTIPLES` at which the model builds (heads that must divide a width)."""
        for multiple in MULTIPLES:
            try:
                for factor in (1, 2, 3, 5, 7):
                    self._count_one(factor * multiple)
                return multiple
            except FlopsFitError as error:
                problem = error
        raise problem

    def _count_one(self, size: Any) -> ModelCount:
        """The count that the user states; else N alone, where there is no data to count FLOPs with."""
        if self.stated is not None:
            return self.stated.of([size])[size]
        assert self.model_cls is not None
        assert self.size_param is not None
        try:
            model = create_on_meta(self.model_cls, self.size_param, size, self.kwargs)
        except FlopsFitError:
            model = create_model(self.model_cls, self.size_param, size, self.kwargs)
        params = num_params(model)
        return ModelCount(params, params, params, params, 0.0, "none")


def _name(experiment: Experiment) -> str:
    size = experiment.size_param_value
    return f"C{experiment.compute_budget:.6g}-{size}-s{experiment.seed}"
