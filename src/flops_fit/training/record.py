"""The record of a run: what was trained, what came of it, what it cost, and where it ran."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flops_fit.constants import flops_6nd
from flops_fit.files import FORMAT
from flops_fit.sweep import ModelCount

COUNTED_IN_FLOPS = ("input_positions", "input_positions_here")


@dataclass(frozen=True)
class Record:
    """The record of a run, from the workflow as from Python; `to_dict` gives what is stored.

    Attributes:
        experiment_id: the id of the experiment.
        hash: the hash of what decides its result.
        identity: what decides its result, as plain data.
        count: what its size holds and costs, as counted before the training.
        tokens_per_item: target elements of an item.
        outcome: what `flops_fit.trainer.train` returned, or what a user's own script did.
        versions: the versions of what trained it.
    """

    experiment_id: str
    hash: str
    identity: Mapping[str, Any]
    count: ModelCount
    tokens_per_item: float
    outcome: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=lambda: versions())

    def to_dict(self) -> dict[str, Any]:
        """The record as plain data, not sealed yet."""
        flops = self.flops()
        per_token = flops["flops_counted"] / self.outcome["tokens_seen"]
        outcome = {k: v for k, v in self.outcome.items() if k not in COUNTED_IN_FLOPS}
        return {
            "format": FORMAT,
            "experiment_id": self.experiment_id,
            "hash": self.hash,
            "identity": self.identity,
            **self.count.to_dict(self.tokens_per_item),
            **outcome,
            **flops,
            **speed(self.outcome, per_token),
            "versions": self.versions,
            "host": platform.node(),
        }

    def flops(self) -> dict[str, float]:
        """The FLOPs of the run by both counts.

        Where positions decide, they stand beside it, with the FLOPs that were expected.
        """
        tokens, positions = self.outcome["tokens_seen"], self.outcome["input_positions"]
        flops = {
            "flops_6nd": flops_6nd(self.outcome["num_params"], tokens),
            "flops_counted": self.count.spent_flops(tokens, positions),
        }
        if "tokens_here" in self.outcome:  # the rest was trained by other runs of its trunk
            here = self.outcome["tokens_here"], self.outcome["input_positions_here"]
            flops["flops_here"] = self.count.spent_flops(*here)
        if self.count.flops_per_position is not None:
            flops["input_positions"] = positions
            flops["flops_expected"] = self.count.flops_per_token * tokens
        return flops


def speed(outcome: Mapping[str, Any], flops_per_token: float) -> dict[str, float | None]:
    """FLOP/s of a run and its share of the devices' peak, as its record holds them.

    ``outcome``: that of the training; ``flops_per_token``: FLOPs per target element as counted, so
    without recomputed activations. Each is None where it is not known.
    """
    if not flops_per_token or outcome["tokens_per_second"] is None:
        return {"flops_per_second": None, "peak_share": None}
    flops_per_second = flops_per_token * outcome["tokens_per_second"]
    peak = outcome.get("peak_flops_per_second")
    share = flops_per_second / peak if peak else None
    return {"flops_per_second": flops_per_second, "peak_share": share}


def versions() -> dict[str, str]:
    """The versions that a bitwise repetition of a run needs."""
    import accelerate
    import numpy
    import torch

    from flops_fit import __version__

    return {
        "flops_fit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "accelerate": accelerate.__version__,
        "numpy": numpy.__version__,
    }
