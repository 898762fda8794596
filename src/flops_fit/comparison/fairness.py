"""Whether two arms may be compared at all, and in which ways their sweeps differ beside the recipe."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from flops_fit.comparison.multiplier import SAME_BUDGET
from flops_fit.comparison.pairs import Arm
from flops_fit.comparison.result import Doubt
from flops_fit.comparison.seeds import BORROWED, SeedLuck
from flops_fit.constants import MOST_EPOCHS
from flops_fit.errors import FlopsFitError
from flops_fit.notation import flops_text

COMPARABLE = "bits per byte"  # the one unit in which tokenizers compare
NOISIER = 2.0  # factor in the noise of a run
SAME_COST = 0.03  # relative: FLOPs per token of one N that differ by more are counted otherwise
VARIED = (
    "model.size",
    "tokens",
    "batch_items",
    "batch_growth",
    "steps",
    "seed",
)  # within any sweep
SOURCES = ("source", "prepare_source", "files")  # fingerprints: no key that a user sets
MOST_VALUES = 3  # of a key that are shown


def check_units(reference: Arm, candidate: Arm) -> None:
    """Refuse ``reference`` and ``candidate`` with losses in different units, with a `FlopsFitError`."""
    units = [arm.fit.data.loss_unit for arm in (reference, candidate)]
    if units[0] != units[1]:
        raise FlopsFitError(
            f"loss unit: {reference.name} has {units[0]!r}, {candidate.name} has {units[1]!r}; "
            f"allowed: the same unit in both, such as {COMPARABLE} (fit both with --loss)"
        )


def doubts_of(
    reference: Arm, candidate: Arm, luck: SeedLuck, records: tuple[list[dict], list[dict]] | None
) -> list[Doubt]:
    """The fairness list of ``reference`` and ``candidate``.

    ``luck``: that of their seeds; ``records``: those of the runs of either, None where these are not
    known.
    """
    doubts = [*_of_fits(reference, candidate, luck)]
    if records is None:
        text = (
            "the records of the runs were not given, so it is not checked that both arms have the "
            "same held-out data and tokenizer, and that both learning rates were tuned"
        )
        return [*doubts, Doubt("held-out data", text, serious=False)]
    unit = reference.fit.data.loss_unit
    return [*doubts, *_of_records((reference, candidate), records, unit)]


def _of_fits(reference: Arm, candidate: Arm, luck: SeedLuck) -> Iterator[Doubt]:
    """What the two fits show by themselves."""
    arms = (reference, candidate)
    yield from _measured(arms)
    yield from _counting(arms)
    yield from _budgets(arms)
    yield from _seeds(arms, luck)
    for arm in arms:
        edge = [b for b in arm.fit.isoflop.budgets if b.status != "bracketed"]
        if edge:
            each = ", ".join(f"{flops_text(b.flops)} ({b.status.replace('_', ' ')})" for b in edge)
            yield Doubt(
                "minima", f"{arm.name} has budgets without a bracketed minimum: {each}", False
            )
        if not arm.fit.isoflop.shared:
            yield Doubt("minima", f"{arm.name} has no budgets that its runs share", False)
        epochs = arm.fit.data.most_epochs
        if epochs and epochs > 1:
            much = epochs > MOST_EPOCHS
            text = f"some runs of {arm.name} read their data up to {epochs:.2g} times"
            yield Doubt("repeated data", text, serious=much)
    noise = [arm.fit.parametric.scale for arm in arms]
    if max(noise) > NOISIER * min(noise) and max(noise) > 1e-6:
        each = ", ".join(f"{arm.name} {100 * s:.2g}%" for arm, s in zip(arms, noise, strict=True))
        yield Doubt("noise", f"the runs of one arm scatter more around their law: {each}", False)


def _measured(arms: tuple[Arm, Arm]) -> Iterator[Doubt]:
    """Whether both laws are of one measure, as far as the names of columns show it."""
    columns = [arm.fit.data.reading.loss_column for arm in arms]
    if columns[0] != columns[1]:
        each = " and ".join(
            f"that of {arm.name} is {'the loss' if column is None else repr(column)}"
            for arm, column in zip(arms, columns, strict=True)
        )
        yield Doubt("measure", f"the two laws may be of different measures: {each}", serious=True)


def _counting(arms: tuple[Arm, Arm]) -> Iterator[Doubt]:
    """Whether C and N are counted alike."""
    columns = [arm.fit.data.params_column for arm in arms]
    if columns[0] != columns[1]:
        text = f"N is {columns[0]} in {arms[0].name} and {columns[1]} in {arms[1].name}"
        yield Doubt("counting", text, serious=False)
    plain = [len(arm.fit.cost.params) < 2 and abs(arm.fit.cost.factor - 6) < 1e-5 for arm in arms]
    if plain[0] != plain[1]:
        each = "; ".join(f"{arm.name}: {arm.fit.cost.origin}" for arm in arms)
        text = f"the compute of one arm is 6 N D, that of the other is not ({each})"
        yield Doubt("counting", text, serious=True)
        return
    sizes = [np.log([s.params for s in arm.fit.sizes]) for arm in arms]
    low, high = max(s.min() for s in sizes), min(s.max() for s in sizes)
    if low > high:
        text = "the two arms have no range of N in common, so their FLOPs per token do not compare"
        yield Doubt("counting", text, serious=False)
        return
    grid = np.linspace(low, high, 9)
    first, second = (arm.fit.cost.log_flops_per_token(grid) for arm in arms)
    apart = float(np.abs(first - second).max())
    if apart > SAME_COST:
        text = (
            f"at the same N the FLOPs per token of the two arms differ by up to {np.expm1(apart):.0%}: "
            "right if the models do, wrong if they are one model counted in two ways"
        )
        yield Doubt("counting", text, serious=False)


def _seeds(arms: tuple[Arm, Arm], luck: SeedLuck) -> Iterator[Doubt]:
    """What the luck of seeds is, where it could not be measured or where the arms do not share it."""
    first, second, common = luck.seeds
    size = f"{100 * luck.sd:.2g}% of the loss"
    if luck.source == BORROWED:
        lone = [arm.name for arm, n in zip(arms, (first, second), strict=True) if n < 2]
        who = f"only one seed in {' and '.join(lone)}" if lone else "no cells with repeated seeds"
        text = (
            f"{who}: what all runs of one seed have in common by chance cannot be measured, and the "
            f"interval allows for {size}, since the seeds of the standard sweep of the docs differ as "
            "much as single runs do"
        )
        yield Doubt("seeds", text, serious=False)
    elif common < 2:
        text = (
            "the two arms have fewer than two seeds in common, so that the luck of a seed does not "
            f"cancel between them; the interval allows for {size}"
        )
        yield Doubt("seeds", text, serious=False)


def _budgets(arms: tuple[Arm, Arm]) -> Iterator[Doubt]:
    """Whether both arms measured the same budgets."""
    for arm, other in (arms, arms[::-1]):
        theirs = other.fit.data.budgets
        alone = [
            c
            for c in arm.fit.data.budgets
            if not any(abs(np.log(c / d)) < SAME_BUDGET for d in theirs)
        ]
        if alone:
            each = ", ".join(flops_text(c) for c in alone)
            yield Doubt("budgets", f"only {arm.name} has runs at {each} FLOPs", serious=False)


def _of_records(
    arms: tuple[Arm, Arm], records: tuple[list[dict], list[dict]], unit: str
) -> Iterator[Doubt]:
    """What the records of the runs add: data, evaluation, tokenizer and learning rates."""
    values = [_values(side) for side in records]
    data = [key for key in _changed(values) if key.split(".")[0] == "dataset"]
    if data:
        same = unit == COMPARABLE
        text = (
            f"the arms differ in {', '.join(data)}, so their held-out data or tokenizer may differ"
            + ("" if same else f"; losses in {unit} then do not compare (fit {COMPARABLE})")
        )
        yield Doubt("held-out data", text, serious=not same)
    if any(key.startswith("evaluation.") for key in _changed(values)):
        yield Doubt("held-out data", "the arms evaluate on different amounts of data", False)
    seen = [{r.get("heldout_tokens") for r in side if r.get("heldout_tokens")} for side in records]
    if seen[0] and seen[1] and seen[0] != seen[1] and unit != COMPARABLE:
        text = "the held-out data of the arms have different numbers of tokens"
        yield Doubt("held-out data", text, serious=True)
    rates = [{(r.get("identity") or {}).get("learning_rate") for r in side} for side in records]
    for arm, tried in zip(arms, rates, strict=True):
        if len(tried - {None}) == 1:
            (rate,) = tried - {None}
            text = (
                f"every run of {arm.name} has the learning rate {rate}; nothing here shows that it "
                "was tuned, and an arm that was not tuned looks worse than it is"
            )
            yield Doubt("learning rate", text, serious=False)


def differences(records: tuple[list[dict], list[dict]]) -> list[str]:
    """The config keys in which the arms of ``records`` differ, as ``key: value against value``."""
    values = [_values(side) for side in records]
    return [
        f"{key}: {_shown(values[0].get(key))} against {_shown(values[1].get(key))}"
        for key in _changed(values)
    ]


def _changed(values: list[dict[str, set[str]]]) -> list[str]:
    """The keys whose values are not the same in both arms, those that vary in any sweep left out."""
    keys = dict.fromkeys([*values[0], *values[1]])
    return [
        key
        for key in keys
        if key not in VARIED
        and key.split(".")[-1] not in SOURCES
        and values[0].get(key) != values[1].get(key)
    ]


def _values(records: list[dict]) -> dict[str, set[str]]:
    """Config key -> the values that it takes in the runs of one arm."""
    values: dict[str, set[str]] = {}
    for record in records:
        for key, value in _flat(record.get("identity") or {}):
            values.setdefault(key, set()).add(str(value))
    return values


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested objects, with dotted keys."""
    if not isinstance(value, dict):
        yield prefix, value
        return
    for key, item in value.items():
        yield from _flat(item, f"{prefix}.{key}".removeprefix("."))


def _shown(values: set[str] | None) -> str:
    if not values:
        return "none"
    listed = sorted(values)
    more = f" and {len(listed) - MOST_VALUES} more" if len(listed) > MOST_VALUES else ""
    return ", ".join(map(_short, listed[:MOST_VALUES])) + more


def _short(value: str) -> str:
    """A fraction with four digits; any other ``value`` as it is."""
    try:
        return f"{float(value):.4g}" if "." in value else value
    except ValueError:
        return value
