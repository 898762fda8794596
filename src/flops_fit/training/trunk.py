"""The states that runs of one trunk share: each is where a run began its cooldown.

A trunk is a cache. A run that starts from a state has the bits of one that starts from nothing, so a
state that is lost, damaged or removed costs FLOPs and changes no result.
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from flops_fit.batch import Batches
from flops_fit.experiment.options import TrainOptions
from flops_fit.experiment.places import state_folder, state_tokens
from flops_fit.files import canonical_hash
from flops_fit.plan.schedule import cooldown_start
from flops_fit.store.trunks import states_in
from flops_fit.training.checkpoint import load_state, verify_state, write_state

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trunk:
    """Where the states of a trunk lie.

    ``folder`` holds them, ``hash`` is that of what decides the steps before the cooldown, and ``run``
    is the id of the run that reads and leaves them.
    """

    folder: Path
    hash: str
    run: str

    def hash_at(self, tokens: int, growth: Sequence[Sequence[int]] = ()) -> str:
        """The hash that seals the state after ``tokens``, before which the batch grew by ``growth``."""
        grown = {"batch_growth": growth} if growth else {}
        return canonical_hash({"trunk": self.hash, "tokens": tokens} | grown)


class TrunkStates:
    """The states of ``trunk`` as one run with ``options`` uses them; without a trunk there are none.

    The state of ``accelerator`` is saved and loaded.
    """

    def __init__(self, trunk: Trunk | None, options: TrainOptions, accelerator: Accelerator):
        self.trunk, self.accelerator = trunk, accelerator
        self.batches = Batches(options.batch_items, options.batch_growth)
        self.end = cooldown_start(options.tokens, options.schedule) if trunk else 0.0
        # What was trained by others: until which counters, and by which run
        self.start: dict[str, Any] = {"run": None, "tokens": 0, "input_positions": 0}

    def restore(self, checkpoint: dict | None) -> dict | None:
        """Load the furthest valid state before the cooldown and return its counters, or None.

        The counters of a ``checkpoint`` of the run itself, where it is not None, are returned as they
        are. A state that is damaged or of another number of processes is named in the log and skipped.
        All processes verify the same files, so they choose the same one.
        """
        if self.trunk is None or checkpoint is not None:
            self.start = (checkpoint or {}).get("start", self.start)
            return checkpoint
        if self.accelerator.is_main_process:
            for unfinished in self.trunk.folder.glob(f".*-{self.trunk.run}"):  # left by a kill
                shutil.rmtree(unfinished)
        for folder in reversed(states_in(self.trunk.folder)):
            tokens = state_tokens(folder)
            if tokens > self.end:
                continue
            problem, manifest = verify_state(
                self.accelerator, folder, partial(self._hash_at, tokens)
            )
            if not problem:
                load_state(self.accelerator, folder)
                counters = manifest["counters"]
                self.start = {
                    "run": counters["run"],
                    "tokens": counters["seen"],
                    "input_positions": counters["input_positions"],
                }
                if self.accelerator.is_main_process:
                    log.info("starts after %s tokens, from %s", f"{tokens:,}", folder)
                return {**counters, "seconds": 0.0}
            if self.accelerator.is_main_process:
                log.warning("the trunk's state %s is not used: %s", folder, problem)
        return None

    def _hash_at(self, tokens: int, counters: dict) -> str:
        """The hash that seals the state after ``tokens``, which has these ``counters``."""
        assert self.trunk is not None
        return self.trunk.hash_at(tokens, self.batches.until(counters["position"]).growth)

    def due(self, seen: int, total: int) -> bool:
        """Whether the step of ``total`` tokens after ``seen`` ones is the first that may cool down."""
        return self.trunk is not None and 0 < seen <= self.end < seen + total

    def save(self, counters: dict, total: int) -> None:
        """Leave the state with the loop's ``counters`` to longer runs, where it is `due`.

        The next step has ``total`` tokens. Every process must call this. Raises `FlopsFitError` where
        the state cannot be written.
        """
        if self.trunk is None or not self.due(counters["seen"], total):
            return
        final = state_folder(self.trunk.folder, counters["seen"])
        temporary = final.with_name(f".{final.name}-{self.trunk.run}")
        digest = self._hash_at(counters["seen"], counters)
        counters = {**counters, "run": self.trunk.run}
        write_state(self.accelerator, temporary, final, digest, counters)

    def counters(self) -> dict[str, Any]:
        """What a checkpoint must hold beyond the counters of the loop."""
        return {"start": self.start} if self.trunk else {}

    def outcome(self, seen: int, input_positions: int) -> dict[str, Any]:
        """What the record says of a run that ends after ``seen`` tokens and ``input_positions``."""
        if self.trunk is None:
            return {"input_positions": input_positions}
        return {
            "input_positions": input_positions,
            "started_from": self.start["run"],
            "start_tokens": self.start["tokens"],
            "tokens_here": seen - self.start["tokens"],
            "input_positions_here": input_positions - self.start["input_positions"],
        }
