"""The records of the Python API, and the process that writes and prints."""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import send_to_device
from torch import nn

from flops_fit.data import Data
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.options import TrainOptions, part_of_batch
from flops_fit.files import canonical_hash, write_json
from flops_fit.loss import on_device
from flops_fit.model_factory import batch_norms, create_model
from flops_fit.optimizer import build_optimizer
from flops_fit.plan.items import looking
from flops_fit.plugins.randomness import fixed_seeds
from flops_fit.plugins.resolve import one_line
from flops_fit.store.collect import read_results
from flops_fit.store.records import set_aside
from flops_fit.sweep import Experiment
from flops_fit.training.mean import check_mean
from flops_fit.training.tryout import Parts, take_two_steps, try_parts


def is_main_process() -> bool:
    """Whether this process writes and prints; without a launcher there is no other."""
    return int(os.environ.get("RANK", 0)) == 0


def say(text: str) -> None:
    """Print ``text`` as one line to standard error, in the main process only."""
    if is_main_process():
        print(f"flops-fit: {text}", file=sys.stderr)


@dataclass(frozen=True)
class Call:
    """The objects that a call of the Python API receives and that decide its results.

    ``model_cls`` is called with ``size_param`` and ``model_kwargs``; ``data``, ``loss_fn`` and
    ``optimizer`` are those of `flops_fit.find_optimal`.
    """

    model_cls: Callable[..., nn.Module]
    size_param: str
    model_kwargs: dict[str, Any] | None
    data: Data
    loss_fn: Callable[..., Any]
    optimizer: Callable[..., Any]

    def check_data(self, runs: int) -> None:
        """Print the notes on the data, and check that they can be read for all ``runs``.

        Raises `FlopsFitError` for data that can be read only once, where there are several runs.
        """
        if self.data.read_once and runs > 1:
            raise FlopsFitError(
                f"dataset: a generator can be read only once, but the sweep has {runs} runs; allowed: "
                "an iterable that can be read again, such as an IterableDataset whose __iter__ starts "
                "from the beginning"
            )
        for note in self.data.notes:
            say(note)

    def check_parts(self, planned: Sequence[tuple[Experiment, TrainOptions]]) -> None:
        """Check on the first model that the split of a batch changes nothing.

        ``planned`` are all experiments with the options of their runs. Prints where it changes the
        result, as it does under batch norm. Raises `FlopsFitError` for a loss that is not a mean over
        items.
        """
        if not planned:
            return
        experiment, options = planned[0]
        world = int(os.environ.get("WORLD_SIZE", 1))
        part = part_of_batch(options.largest_batch, world, options.micro_batch_items)
        if part is None:
            return
        with looking():
            model = self.model(experiment.size_param_value)
            if not self.data.read_once:
                check_mean(model, self.data, self.loss_fn, part)
        if norms := batch_norms(model):
            say(
                f"model: {', '.join(norms)} normalises over {part} of the {options.batch_items} items "
                "of a batch: results depend on the number of processes and on micro_batch_items, and "
                "runs of another split are not trained again"
            )

    def try_out(
        self,
        planned: Sequence[tuple[Experiment, TrainOptions]],
        generators: Iterable[Any],
        train: Callable[..., dict[str, Any]],
    ) -> None:
        """Try all parts on a real batch, with the smallest model, and print notes on them.

        ``planned`` are all experiments with the options of their runs, ``generators`` the random ones
        that the parts hold, which are left as they were, and ``train`` is that of `flops_fit.trainer`.
        Raises `FlopsFitError` that says which part of the contract is broken.
        """
        if self.data.read_once:  # what is taken from it now would be missing later
            return
        experiment, options = min(planned, key=lambda pair: pair[0].count.params_total)
        with fixed_seeds(generators):
            self._try_out(experiment, options, train)

    def _try_out(
        self, experiment: Experiment, options: TrainOptions, train: Callable[..., dict[str, Any]]
    ) -> None:
        device, world = PartialState().device, int(os.environ.get("WORLD_SIZE", 1))

        def moved(items: list) -> tuple:
            return send_to_device(self.data.collate(items), device)

        parts = Parts(
            lambda: self.model(experiment.size_param_value).to(device),
            lambda: replace(self.data, collate=moved),
            on_device(self.loss_fn, device),
            self.build_optimizer,
            options,
            experiment.count.params_total,
            part_of_batch(options.largest_batch, world, options.micro_batch_items),
        )
        for note in try_parts(parts):
            say(note)
        if world == 1:
            parts = replace(parts, data=lambda: self.data)
            take_two_steps(parts, experiment.tokens_per_item, train)

    def build_optimizer(self, model: nn.Module, lr: float) -> Any:
        """Build what the optimiser's factory returns for ``model`` and the learning rate ``lr``.

        Raises `FlopsFitError` where it fails.
        """
        try:
            return build_optimizer(self.optimizer, model, lr)
        except FlopsFitError:
            raise
        except Exception as error:
            raise FlopsFitError(f"optimizer: {one_line(error)}") from error

    def model(self, size: Any) -> nn.Module:
        """Build the model at ``size``."""
        return create_model(self.model_cls, self.size_param, size, self.model_kwargs)


def options_for(
    experiment: Experiment,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    **train_options: Any,
) -> TrainOptions:
    """Return the options for an ``experiment`` of a plan: as planned, unless the caller gives others.

    ``batch_size`` in items and ``learning_rate`` replace those of the plan; ``train_options`` are
    further fields of `TrainOptions`.
    """
    return TrainOptions(
        tokens=experiment.num_tokens,
        batch_items=batch_size or experiment.batch_items or 32,
        learning_rate=learning_rate or experiment.learning_rate or 1e-3,
        seed=experiment.seed,
        expected_items=experiment.expected_items,
        batch_growth=[] if batch_size else experiment.batch_growth,
        **train_options,
    )


class ResultsFile:
    """The file ``results.json`` in ``folder``: a list of records, at most one per experiment id."""

    def __init__(self, folder: str | Path):
        self.path = Path(folder, "results.json")
        self.records = self._read()

    def _read(self) -> dict[str, dict]:
        if not self.path.exists():
            return {}
        try:
            records = {record["experiment_id"]: record for record in read_results(self.path)}
        except (FlopsFitError, KeyError):
            if is_main_process():
                kept = set_aside(self.path)
                say(f"{self.path} is broken; it was moved to {kept.name}, and a new one is begun")
            return {}
        sound = {name: record for name, record in records.items() if _is_sound(record)}
        if edited := [name for name in records if name not in sound]:
            say(f"{self.path}: edited by hand: {', '.join(edited)}; these runs are trained again")
        return sound

    def add(self, record: dict[str, Any]) -> None:
        """Add ``record``, or replace the one with its id, and write the file."""
        self.records[record["experiment_id"]] = record
        if is_main_process():
            sealed = [{**r, "checksum": _checksum(r)} for r in self.records.values()]
            write_json(self.path, sealed)


def _checksum(record: dict[str, Any]) -> str:
    """The hash of what came of a run; what was asked for is compared with the call anyway."""
    return canonical_hash({k: v for k, v in record.items() if k not in ("hash", "identity")})


def _is_sound(record: dict[str, Any]) -> bool:
    """Whether a ``record`` is as it was written; takes its checksum, which old versions did not set."""
    checksum = record.pop("checksum", None)
    return checksum is None or checksum == _checksum(record)
