"""Runs of the Python API: what they are, when they are objects instead of import paths."""

import hashlib
import inspect
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from flops_fit.data import Data
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.options import TRAINER_VERSION, TrainOptions
from flops_fit.files import canonical_hash, read_json, write_json
from flops_fit.plugins.code import source_fingerprint
from flops_fit.store.records import set_aside

SAMPLED_ITEMS = 16  # of a dataset object, hashed as its fingerprint


def is_main_process() -> bool:
    """Whether this process writes; a script without a launcher has rank 0."""
    return int(os.environ.get("RANK", 0)) == 0


def local_identity(model_cls, size_param, model_kwargs, data: Data, loss_fn, optimizer) -> dict:
    """What objects stand for, as plain data: references, sources and a sample of the data."""
    return {
        "model": {
            **describe(model_cls),
            "size_param": size_param,
            "kwargs": {name: plain(value) for name, value in (model_kwargs or {}).items()},
        },
        "dataset": {"train": sample_hash(data.train), "heldout": sample_hash(data.heldout)},
        "loss": describe(loss_fn),
        "optimizer": describe(optimizer),
        "trainer_version": TRAINER_VERSION,
    }


def options_identity(options: TrainOptions) -> dict:
    """The options that decide a result."""
    names = ("tokens", "batch_items", "learning_rate", "seed", "schedule", "clip_norm", "precision",
             "deterministic", "evaluation_tokens", "evaluation_batch_items")  # fmt: skip
    return {name: getattr(options, name) for name in names}


def describe(thing: Any) -> dict:
    """Reference and source fingerprint of a class, function or callable object."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    reference = f"{named.__module__}:{named.__qualname__}"
    described = {"reference": reference, "source": _source(named, reference)}
    return described if named is thing else {**described, "state": plain(thing)}


def _source(named: Any, reference: str) -> str:
    module = sys.modules.get(named.__module__)
    try:
        if getattr(module, "__file__", None) and named.__module__ != "__main__":
            return source_fingerprint(reference)
        return hashlib.sha256(inspect.getsource(named).encode()).hexdigest()
    except (FlopsFitError, OSError, TypeError):  # a class typed into an interpreter
        return "unknown"


def plain(value: Any) -> Any:
    """``value`` if JSON can hold it, else a text that does not hold an address."""
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}:{value.__qualname__}"
    text = repr(value)
    return type(value).__qualname__ if " at 0x" in text else text


def sample_hash(dataset) -> str:
    """Hash of a dataset's type, length and `SAMPLED_ITEMS` of its items, evenly spread."""
    digest = hashlib.sha256(type(dataset).__qualname__.encode())
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        count = len(dataset)
        digest.update(str(count).encode())
        positions = {round(i * (count - 1) / (SAMPLED_ITEMS - 1)) for i in range(SAMPLED_ITEMS)}
        for position in sorted(positions):
            for leaf in tree_leaves(dataset[position]):
                digest.update(_bytes(leaf))
    return digest.hexdigest()


def _bytes(leaf: Any) -> bytes:
    if isinstance(leaf, torch.Tensor):
        return leaf.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return repr(leaf).encode()


class ResultsFile:
    """``results.json``: a list of records, at most one for each experiment id."""

    def __init__(self, folder: str | Path):
        self.path = Path(folder, "results.json")
        self.records = self._read()

    def _read(self) -> dict[str, dict]:
        if not self.path.exists():
            return {}
        try:
            return {record["experiment_id"]: record for record in read_json(self.path)}
        except (FlopsFitError, TypeError, KeyError):
            if is_main_process():
                kept = set_aside(self.path)
                print(f"flops-fit: {self.path} is broken; moved to {kept.name}, starting anew",
                      file=sys.stderr)  # fmt: skip
            return {}

    def finished(self, experiment_id: str, identity_hash: str) -> dict | None:
        """The stored record of exactly this experiment, or None; another's is told of."""
        record = self.records.get(experiment_id)
        if record is None or record.get("hash") == identity_hash:
            return record
        if is_main_process():
            print(f"flops-fit: {experiment_id} was trained with other settings; training it again",
                  file=sys.stderr)  # fmt: skip
        return None

    def add(self, record: dict) -> None:
        self.records[record["experiment_id"]] = record
        if is_main_process():
            write_json(self.path, list(self.records.values()))


def identity_hash(identity: dict, size: Any, options: TrainOptions) -> str:
    return canonical_hash({**identity, "size": plain(size), **options_identity(options)})
