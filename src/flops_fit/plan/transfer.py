"""What a few steps at several sizes show: whether a learning rate tuned at one size fits the others.

In a recipe that transfers, a step changes the activations of every layer by as much at any size (the
coordinate check of Yang et al. 2022, arXiv 2203.03466; for depths Dey et al. 2025, arXiv 2505.01618).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

LIMIT = (
    0.25  # powers of the size below it count as none: 1.7 times from a size to one 8 times larger
)
UNEVEN = 2.0  # factor between the changes at two sizes that no power explains
CLEARLY = 2.0  # standard errors by which a power has to exceed it


@dataclass(frozen=True)
class Layer:
    """The layers of one place in the model, its ``name``, as ``blocks.*.mlp.up`` (all depths together).

    ``activation`` and ``change``: the root mean square of its output after the last step, and of
    the difference to its output before the first, one for each size; ``change`` is empty where it
    is zero at some size. ``activation_power`` and ``change_power``: of the size, by least squares in
    logarithms; ``error``: standard error of the latter over the seeds (None for a single seed).
    """

    name: str
    kind: str  # the class of the module
    activation: list[float]
    change: list[float]
    activation_power: float
    change_power: float | None
    error: float | None

    @property
    def moves(self) -> int:
        """1 where its change clearly grows with the size, -1 where it shrinks, else 0."""
        power = self.change_power or 0.0
        clear = abs(power) - CLEARLY * (self.error or 0.0) > LIMIT
        return int(np.sign(power)) if clear else 0

    @property
    def uneven(self) -> bool:
        """Whether its change differs much between sizes, and not as a power of the size."""
        return not self.moves and bool(self.change) and max(self.change) > UNEVEN * min(self.change)


@dataclass(frozen=True)
class Transfer:
    """A few ``steps`` of the same recipe at several ``sizes``, values of ``size_param``.

    ``params``: N of each size, all trainable parameters; ``rates``: the learning rate of each;
    ``seeds``: their number; ``layers``: what was measured, in the order of the model.
    """

    size_param: str
    sizes: list[float]
    params: list[int]
    rates: list[float]
    steps: int
    seeds: int
    layers: list[Layer]

    @property
    def transfers(self) -> bool:
        """Whether no layer changes by an amount that depends on the size."""
        return not any(layer.moves or layer.uneven for layer in self.layers)

    def sentence(self) -> str:
        """What was found, with its numbers."""
        measured = [layer for layer in self.layers if layer.change_power is not None]
        span = f"from {self.size_param} {self.sizes[0]:g} to {self.sizes[-1]:g}"
        when = f"after {self.steps} steps, {span},"
        if self.transfers:
            powers = [layer.change_power or 0.0 for layer in measured]
            return (
                f"{when} no layer changes by an amount that depends clearly on the size: powers of "
                f"{self.size_param} from {min(powers):+.2f} to {max(powers):+.2f}. A rate that is tuned "
                "at one of these sizes should fit the others"
            )
        parts = []
        for sign, verb in ((1, "grows"), (-1, "shrinks")):
            moved = [layer for layer in measured if layer.moves == sign]
            moved.sort(key=lambda layer: -abs(layer.change_power or 0.0))
            if moved:
                parts.append(f"the change {verb} in " + ", ".join(map(self._power, moved)))
        uneven = [
            f"{layer.name} (x {max(layer.change) / min(layer.change):.3g} between two sizes)"
            for layer in measured
            if layer.uneven
        ]
        if uneven:
            parts.append(f"the change differs without a trend in {', '.join(uneven)}")
        return (
            f"{when} {'; '.join(parts)}. A rate that is tuned at one of these sizes does not fit the "
            "others: tune it at each (config/lr.yaml), or scale rates and initial weights with the size"
        )

    def _power(self, layer: Layer) -> str:
        factor = layer.change[-1] / layer.change[0]
        return f"{layer.name} as {self.size_param}^{layer.change_power:.2f} (x {factor:.3g})"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``flops-fit transfer-check --json`` prints it."""
        return {
            **vars(self),
            "layers": [
                {**vars(layer), "moves": layer.moves, "uneven": layer.uneven}
                for layer in self.layers
            ],
            "transfers": self.transfers,
            "sentence": self.sentence(),
        }


def layer_of(
    name: str, kind: str, sizes: np.ndarray, activation: np.ndarray, change: np.ndarray
) -> Layer:
    """The layer ``name`` of the class ``kind``, from root mean squares of shape (seeds, sizes).

    ``sizes`` (k,) are the values of the size parameter; ``activation`` and ``change`` as in `Layer`,
    of which the geometric mean over the seeds counts.
    """
    changed = bool((change > 0).all())
    each = _powers(sizes, change) if changed else np.zeros(0)
    return Layer(
        name=name,
        kind=kind,
        activation=_means(activation),
        change=_means(change) if changed else [],
        activation_power=float(_powers(sizes, activation).mean()),
        change_power=float(each.mean()) if changed else None,
        error=float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else None,
    )


def _powers(sizes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(seeds,): the slope of ln ``values`` (seeds, sizes) against ln size."""
    x = np.log(sizes) - np.log(sizes).mean()
    return np.log(np.maximum(values, 1e-300)) @ x / (x @ x)


def _means(values: np.ndarray) -> list[float]:
    return [float(v) for v in np.exp(np.log(np.maximum(values, 1e-300)).mean(axis=0))]
