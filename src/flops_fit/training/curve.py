"""The course of a run: losses kept on the device until they are needed, then thinned for the record."""

import math
from dataclasses import dataclass, field

import torch

FLUSH_STEPS = 64  # how often the host reads losses back: each read stalls the device's queue
MAX_POINTS = 128  # of a recorded curve


@dataclass
class Curve:
    """Per-step training loss (global mean), tokens seen and realised learning rate."""

    loss: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    _pending: list[torch.Tensor] = field(default_factory=list)

    def add(self, share_of_loss: torch.Tensor, tokens: int, learning_rate: float) -> None:
        """Note a step; ``share_of_loss`` is this process's part of the global mean loss."""
        self._pending.append(share_of_loss)
        self.tokens.append(tokens)
        self.learning_rate.append(learning_rate)

    def flush(self, accelerator, force: bool = False) -> int | None:
        """Read back pending losses, summed over processes, when there are enough of them.

        Returns the index of the first step whose loss is not finite, or None. Every process sees
        the same sums and decides alike.
        """
        if not self._pending or (len(self._pending) < FLUSH_STEPS and not force):
            return None
        losses = accelerator.reduce(torch.stack(self._pending), reduction="sum")
        self._pending.clear()
        known = len(self.loss)
        self.loss.extend(losses.tolist())
        return next(
            (i for i, x in enumerate(self.loss[known:], known) if not math.isfinite(x)), None
        )

    def until(self, step: int) -> "Curve":
        """The first ``step`` steps."""
        return Curve(self.loss[:step], self.tokens[:step], self.learning_rate[:step])

    def points(self) -> dict[str, list]:
        """At most `MAX_POINTS` points: each the mean loss of a run of steps, at its last step."""
        count = len(self.loss)
        edges = sorted({round(i * count / MAX_POINTS) for i in range(MAX_POINTS + 1)} - {0})
        starts = [0, *edges][: len(edges)]
        return {
            "tokens": [self.tokens[e - 1] for e in edges],
            "loss": [_mean(self.loss[s:e]) for s, e in zip(starts, edges, strict=True)],
            "learning_rate": [self.learning_rate[e - 1] for e in edges],
        }

    def state(self) -> dict:
        return {"loss": self.loss, "tokens": self.tokens, "learning_rate": self.learning_rate}


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
