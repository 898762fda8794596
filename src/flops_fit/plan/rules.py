"""Batch and learning-rate rules: a power law of N, D and the size value, or the user's function."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.build import call
from flops_fit.files import read_object
from flops_fit.plugins.data_files import find_path
from flops_fit.plugins.resolve import check_arguments, resolve

FACTORS = ("params", "tokens", "size")


def make_rule(key: str, rule: Mapping, search_paths: tuple[str, ...] = ()) -> Callable[..., float]:
    """The function ``(params, tokens, size) -> value`` of the ``rule`` under the config's ``key``.

    A power-law rule is ``value x prod((factor / reference) ** power)`` over `FACTORS`. Files that a rule
    names are looked for below ``search_paths``. Raises `FlopsFitError` naming ``key``.
    """
    if "function" in rule:
        function = resolve(rule["function"])
        check_arguments(function, rule["function"], {}, f"{key}.function", supplied=FACTORS)
        return lambda **factors: _checked(key, call(function, rule["function"], factors))
    if "file" in rule:
        rule = _read_rule(key, rule["file"], search_paths)
    return lambda **factors: _checked(key, _power_law(rule, factors))


def same_for_any_tokens(key: str, rule: Callable[..., float]) -> Callable[..., float]:
    """The ``rule`` under the config's ``key``, for runs that share a trunk.

    It raises `FlopsFitError` where another D of the same size gives another value.
    """
    known: dict[tuple[float, float], tuple[float, float]] = {}

    def checked(*, params: float, tokens: float, size: float) -> float:
        value = rule(params=params, tokens=tokens, size=size)
        first, before = known.setdefault((params, size), (tokens, value))
        if value != before:
            raise FlopsFitError(
                f"{key}: the rule gave {before:.6g} for size {size:g} at D = {first:.4g} and "
                f"{value:.6g} at D = {tokens:.4g}; allowed with schedule.kind: trunk: one value for "
                "every D of a size, because its runs share their first steps"
            )
        return value

    return checked


def _power_law(rule: Mapping, factors: Mapping[str, float]) -> float:
    value = rule["value"]
    try:
        for name in FACTORS:
            if name in rule:
                value *= (factors[name] / rule[name]["reference"]) ** rule[name]["power"]
    except OverflowError:
        return math.inf
    return value


def _read_rule(key: str, file: str, search_paths: tuple[str, ...]) -> Mapping:
    path = find_path(file, search_paths)
    if path is None:
        raise FlopsFitError(f"{key}.file: {file!r} does not exist; allowed: a JSON rule file")
    rule = read_object(path)
    if not _is_positive(rule.get("value")):
        raise FlopsFitError(
            f"{path}: no positive number under 'value'; allowed: a rule as {key} takes it"
        )
    for name in FACTORS:
        factor = rule.get(name, {"reference": 1, "power": 0})
        sound = isinstance(factor, dict) and _is_positive(factor.get("reference"))
        if not sound or not isinstance(factor.get("power"), (int, float)):
            raise FlopsFitError(
                f"{path}: {name}: {factor!r}; allowed: a positive reference and a power"
            )
    return rule


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 < value < math.inf


def _checked(key: str, value: Any) -> float:
    if not _is_positive(value):
        raise FlopsFitError(f"{key}: the rule gave {value!r}; allowed: a positive number")
    return float(value)
