"""Which runs a cell of a sweep has: factors on rate, batch and weight decay, and shares of the data."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from flops_fit.config.factors import FACTORS
from flops_fit.sweep import Variant

AXES = dict(zip(FACTORS, (f.name for f in fields(Variant)), strict=False))


def variants_of(config: Mapping[str, Any]) -> Callable[[int, float], list[Variant]]:
    """The runs of a cell in the sweep of ``config``, by its number and its budget in FLOPs."""
    axes = _axes(config)
    star = config["rate_design"] == "star" and len(axes) > 1
    fractions = (config.get("dataset") or {}).get("unique_fraction", [1])

    def variants(cell: int, budget: float) -> list[Variant]:
        places = _star(axes, cell) if star else [*itertools.product(*axes.values())]
        shares = fractions.get(budget, [1]) if isinstance(fractions, Mapping) else fractions
        names = [AXES[key] for key in axes]
        return [
            replace(
                Variant(**dict(zip(names, place, strict=True))),
                unique_fraction=None if share == 1 else share,
            )
            for place in places
            for share in shares
        ]

    return variants


def not_tried(config: Mapping[str, Any]) -> list[str]:
    """Sentences on the factors of ``config`` that its design leaves out."""
    axes = _axes(config)
    if config["rate_design"] != "star" or len(axes) < 2:
        return []
    sentences = []
    for key, values in axes.items():
        middle = _middle(values)
        outer = [f"{v:g}" for i, v in enumerate(values) if abs(i - middle) > 1]
        if outer:
            sentences.append(
                f"{key}: rate_design star tries {values[middle]:g} and its neighbours, and not "
                f"{', '.join(outer)}; grid tries every combination"
            )
    return sentences


def _axes(config: Mapping[str, Any]) -> dict[str, list[float]]:
    """The factors that vary, in ascending order where they are combined."""
    axes = {key: config[key] for key in FACTORS if len(config[key]) > 1}
    return {key: sorted(values) for key, values in axes.items()} if len(axes) > 1 else axes


def _middle(values: Sequence[float]) -> int:
    return (len(values) - 1) // 2


def _star(axes: Mapping[str, Sequence[float]], cell: int) -> list[tuple[float, ...]]:
    """The middle, its neighbours along each axis, and one diagonal of each pair of axes.

    As many runs as a paraboloid has coefficients. Diagonals alternate between cells, upwards in one
    and downwards in the next, so that a lopsided valley does not move all cells the same way.
    """
    steps: list[dict[str, int]] = [{}]
    steps += [{key: side} for key in axes for side in (-1, 1)]
    side = 1 if cell % 2 else -1
    steps += [dict.fromkeys(pair, side) for pair in itertools.combinations(axes, 2)]
    return [
        tuple(values[_middle(values) + step.get(key, 0)] for key, values in axes.items())
        for step in steps
    ]
