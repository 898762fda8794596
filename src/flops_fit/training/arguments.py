"""Check the arguments of `flops_fit.find_optimal` before anything is planned."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

import numpy as np

from flops_fit.config.complete import check_section
from flops_fit.constants import TRUNK
from flops_fit.data import describe
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.options import COSINE, TrainOptions
from flops_fit.plugins.signature import choose_size, live_arguments

SET_BY_THE_PLAN = {  # of `TrainOptions`, for each experiment
    *("tokens", "batch_items", "learning_rate", "seed", "expected_items", "batch_growth")
}
OPTIONS = ["optimizer", *(f.name for f in fields(TrainOptions) if f.name not in SET_BY_THE_PLAN)]


def numbers(name: str, value: Any) -> list[Any]:
    """The numbers of the argument ``name``, whose ``value`` is one or several of them, as Python's.

    Raises `FlopsFitError` for anything else, and for one that is not positive.
    """
    several = isinstance(value, Iterable) and not isinstance(value, str | Mapping)
    values = [n.item() if isinstance(n, np.generic) else n for n in (value if several else [value])]
    for number in values or [value]:
        if isinstance(number, bool) or not isinstance(number, Real) or not float(number) > 0:
            raise FlopsFitError(f"{name}: {number!r:.60} given; allowed: positive numbers")
    return values


def seeds_of(value: Any) -> list[int]:
    """The seeds of ``value``, a list of them, or how many there are, from 0 on.

    Raises `FlopsFitError` for anything else.
    """
    seeds = list(range(value)) if isinstance(value, Integral) else list(value)
    if not seeds or not all(isinstance(seed, Integral) and int(seed) >= 0 for seed in seeds):
        raise FlopsFitError(
            f"seeds: {value!r:.60} given; allowed: whole numbers from 0, or a number"
        )
    return [int(seed) for seed in seeds]


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The further ``options`` of `find_optimal`, with the schedule complete.

    Raises `FlopsFitError` that names an option that does not exist, or is wrong.
    """
    for name in options:
        if name not in OPTIONS:
            close = difflib.get_close_matches(name, OPTIONS, n=1)
            hint = (
                f"did you mean {close[0]}?" if close else f"allowed: {', '.join(sorted(OPTIONS))}"
            )
            raise FlopsFitError(f"{name}: no such argument; {hint}")
    if options.get("schedule") is None:
        return dict(options)
    schedule = options["schedule"]
    given = {"kind": schedule} if isinstance(schedule, str) else dict(schedule)
    check_section("schedule", given)
    return {**options, "schedule": given if given.get("kind") == TRUNK else {**COSINE, **given}}


def only_size(model_cls: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """The only argument that ``model_cls`` requires beside the ``given`` ones.

    Raises `FlopsFitError` that names the candidates where there is not exactly one.
    """
    arguments = live_arguments(model_cls)
    name = getattr(model_cls, "__qualname__", type(model_cls).__name__)
    return choose_size("model_size_param", name, arguments, given)


def check_arguments(
    model_cls: Any,
    dataset: Any,
    loss_fn: Any,
    train_fn: Any,
    counts: Any,
    train_options: Mapping[str, Any],
) -> None:
    """Refuse arguments of `find_optimal` that do not go together.

    ``model_cls``, ``dataset``, ``loss_fn``, ``train_fn``, ``counts`` and ``train_options`` are those of
    `find_optimal`. Raises `FlopsFitError` that names the argument.
    """
    model = model_cls is not None
    optimizer = train_options.get("optimizer")
    if optimizer is not None and not callable(optimizer):
        raise FlopsFitError(
            f"optimizer: {describe(optimizer)}, which belongs to one model; allowed: a function of "
            "(model, lr) that returns an optimiser, or a class such as torch.optim.SGD"
        )
    if train_fn is None:
        if not model:
            raise FlopsFitError("model_cls: missing; allowed: a model, or train_fn with counts")
        if counts is not None:
            raise FlopsFitError("counts: the model itself is counted; allowed: with train_fn alone")
        return
    if not callable(train_fn):
        raise FlopsFitError(f"train_fn: {train_fn!r:.60}; allowed: a function, called with a run")
    if model == (counts is not None):
        raise FlopsFitError(
            "counts: what a size holds and costs must be known once; allowed: exactly one of counts "
            "and model_cls"
        )
    decided = {"dataset": dataset, "loss_fn": loss_fn, **train_options}
    for name in [name for name, value in decided.items() if value is not None]:
        raise FlopsFitError(
            f"{name}: cannot be combined with train_fn, because the function decides it"
        )
