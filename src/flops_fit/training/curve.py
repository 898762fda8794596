"""The training curve: losses stay on the device until they are needed, and the record gets few."""

import math
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator

FLUSH_STEPS = 64  # steps between two reads of the losses; each read makes the device wait
MAX_POINTS = 128  # points of a recorded curve


@dataclass
class Curve:
    """The training ``loss`` (global mean), ``tokens`` seen and ``learning_rate`` of each step."""

    loss: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    _pending: list[torch.Tensor] = field(default_factory=list)

    def add(self, share_of_loss: torch.Tensor, tokens: int, learning_rate: float) -> None:
        """Add a step.

        ``share_of_loss`` is the part of the global mean loss that this process computed, ``tokens``
        are all tokens seen so far, and ``learning_rate`` is the rate of the step.
        """
        self._pending.append(share_of_loss)
        self.tokens.append(tokens)
        self.learning_rate.append(learning_rate)

    def flush(self, accelerator: Accelerator, force: bool = False) -> int | None:
        """Read the pending losses from the device, once there are enough or if ``force`` is true.

        ``accelerator`` sums them over the processes, so that all processes see the same values.
        Returns the index of the first step whose loss is not finite, or None.
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
        """Return the curve of the first ``step`` steps."""
        return Curve(self.loss[:step], self.tokens[:step], self.learning_rate[:step])

    def points(self) -> dict[str, list]:
        """Return at most `MAX_POINTS` points: the mean loss of successive steps, at their last step.

        The lists are ``tokens``, ``loss`` and ``learning_rate``.
        """
        count = len(self.loss)
        edges = sorted({round(i * count / MAX_POINTS) for i in range(MAX_POINTS + 1)} - {0})
        starts = [0, *edges][: len(edges)]
        return {
            "tokens": [self.tokens[e - 1] for e in edges],
            "loss": [_mean(self.loss[s:e]) for s, e in zip(starts, edges, strict=True)],
            "learning_rate": [self.learning_rate[e - 1] for e in edges],
        }

    def state(self) -> dict:
        """Return all steps as plain data for a checkpoint."""
        return {"loss": self.loss, "tokens": self.tokens, "learning_rate": self.learning_rate}


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
