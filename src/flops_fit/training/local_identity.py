"""What a call of the Python API is given: hashed once, by content, and compared with before."""

import copy
import os
import time
import uuid
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.options import TRAINER_VERSION, TrainOptions
from flops_fit.files import canonical_hash
from flops_fit.plugins.content import PYTHON, Contents
from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.randomness import fixed_seeds
from flops_fit.sweep import Experiment
from flops_fit.training.local import Call, is_main_process, say

PROBED_ITEMS = 32  # of each part of the data, evenly spread; of a stream, the first
COPIED_BYTES = 2**28  # of a stream's state, up to which its items are read from a copy
SETTLING_SECONDS = 2.0  # what took longer to hash is not hashed again after training
LONGEST_TEXT, MOST_CLAUSES = 200, 3
TRUST = "trust"  # the value of resume that takes what cannot be compared as unchanged
PARTS = {
    "model": "model",
    "model_kwargs": "model_kwargs",
    "train": "dataset",
    "train_items": "dataset",
    "heldout": "dataset",
    "heldout_items": "dataset",
    "collate": "collate function",
    "loss": "loss_fn",
    "optimizer": "optimizer",
}
# What the objects of a call were when it ended -> when it began, as far as it changed them itself:
# reading fills caches and advances generators. Only this process meets them in that state.
_settled: dict[str, str] = {}


@dataclass(frozen=True)
class LocalIdentity:
    """The objects of one call, and what they are.

    ``objects``: by the names of `PARTS`, whose digests are ``content``. ``refused``: clauses that
    name what cannot be hashed. ``readable``: the same objects for people. ``seconds``: how long
    hashing took; ``hashes`` remembers files.
    """

    objects: dict[str, Any]
    readable: dict
    content: dict[str, str]
    refused: list[str]
    seconds: float
    hashes: FileHashes

    @classmethod
    def of(cls, call: Call, folder: Path) -> "LocalIdentity":
        """Hash the objects of ``call``; the hashes of files are remembered in ``folder``."""
        started, kwargs = time.monotonic(), call.model_kwargs or {}
        objects = {
            "model": call.model_cls,
            "model_kwargs": kwargs,
            "train": call.data.train,
            "heldout": call.data.heldout,
            "collate": call.data.collate,
            "loss": call.loss_fn,
            "optimizer": call.optimizer,
        }
        readable = {
            "model": {
                "reference": reference(call.model_cls),
                "size_param": call.size_param,
                "kwargs": {name: as_text(value) for name, value in kwargs.items()},
            },
            "dataset": {"reference": reference(call.data.train)},
            "loss": {"reference": reference(call.loss_fn), "text": as_text(call.loss_fn)},
            "optimizer": {"reference": reference(call.optimizer), "text": as_text(call.optimizer)},
        }
        contents = Contents(FileHashes(folder / "hashes.json"), say)
        content: dict[str, str] = {}
        refused: list[str] = []
        for part, value in objects.items():
            content[part], problems = contents.digest(value, PARTS[part])
            content[part] = _settled.get(content[part], content[part])
            refused += problems
        for part in ("train", "heldout"):
            content[f"{part}_items"], problems = _items_digest(contents, objects[part], PARTS[part])
            refused += problems
        if is_main_process():
            contents.hashes.save()
        content, refused = _of_the_main_process([content, sorted(set(refused))])
        return cls(objects, readable, content, refused, time.monotonic() - started, contents.hashes)

    def settle(self) -> None:
        """After training: remember what it has changed in the objects, so that it is no change."""
        if self.seconds > SETTLING_SECONDS:
            return
        contents = Contents(self.hashes, say)
        for part, value in self.objects.items():
            left, _ = contents.digest(value, PARTS[part])
            if left != self.content[part]:
                _settled[left] = self.content[part]

    def settings(self, options: TrainOptions) -> dict:
        """What decides a result beside the content of the objects."""
        return {
            "size_param": self.readable["model"]["size_param"],
            "trainer_version": TRAINER_VERSION,
            **options.deciding(),
        }

    def hash(self, size: Any, options: TrainOptions) -> str:
        """The hash of one experiment."""
        digest, _ = Contents(self.hashes, say).digest(size, "size")
        return canonical_hash({**self.settings(options), "size": digest, "content": self.content})

    def once(self, digest: str) -> str:
        """``digest``, made unlike any other where something cannot be compared with before."""
        return f"{digest}-{uuid.uuid4().hex}" if self.refused else digest

    def record(self, options: TrainOptions) -> dict:
        """What a record keeps of it: references for people, and the digests beside them."""
        return {
            **self.readable,
            "content": self.content,
            "not_hashed": self.refused,
            "python": PYTHON,
            "trainer_version": TRAINER_VERSION,
            **options.deciding(),
        }

    def difference(self, stored: dict, size: Any, options: TrainOptions, trust: bool) -> str:
        """How a stored record was trained otherwise, to be said after "with"; empty if it was not.

        With ``trust``, what another Python has compiled is taken as the same.
        """
        if stored.get("hash") == self.hash(size, options):
            return ""
        identity = stored.get("identity", {})
        then = identity.get("content")
        if not isinstance(then, dict):
            return "an older version of flops-fit, which compared less"
        before = {**identity, "size_param": identity["model"]["size_param"]}
        settings = self.settings(options)
        if canonical_hash(settings) != canonical_hash(
            {name: before.get(name) for name in settings}
        ):
            return "other settings"
        differing = {part for part in PARTS if then.get(part) != self.content[part]}
        compiled = {
            part
            for part in differing
            if _by_another_python(str(then.get(part)), self.content[part])
        }
        if differing - compiled:
            names = dict.fromkeys(PARTS[part] for part in PARTS if part in differing - compiled)
            return f"another {' and '.join(names)}"
        if not compiled:
            return "another size"
        return "" if trust else f"another Python ({identity.get('python')}, this is {PYTHON})"


def check_resume(resume: bool | str) -> None:
    """Raise `FlopsFitError` for a value of ``resume`` that is not known."""
    if resume not in (True, False, TRUST):
        raise FlopsFitError(f"resume: {resume!r} given; allowed: True, False, {TRUST!r}")


def reusable_records(
    planned: list[tuple[Experiment, TrainOptions]],
    records: dict[str, dict],
    identity: LocalIdentity,
    resume: bool | str,
) -> dict[str, dict]:
    """The stored records that answer for what is planned, by id; says why others do not."""
    if not resume:
        return {}
    trust = resume == TRUST
    stale: dict[str, list[str]] = {}
    reusable = {}
    for experiment, options in planned:
        name = experiment.experiment_id
        if name in records:
            size = experiment.size_param_value
            difference = identity.difference(records[name], size, options, trust)
            if difference:
                stale.setdefault(difference, []).append(name)
            elif trust or not identity.refused:
                reusable[name] = records[name]
    for difference, names in stale.items():
        several = f" and {len(names) - 1} more were" if len(names) > 1 else " was"
        say(f"{names[0]}{several} trained with {difference}; training again")
    if identity.refused:
        say(
            f"{_listed(identity.refused)}, and cannot be compared with an earlier call: "
            + (
                "trusted to be unchanged"
                if trust
                else 'every run is trained; resume="trust" takes it as unchanged'
            )
        )
    return reusable


def _listed(clauses: list[str]) -> str:
    more = f" (and {len(clauses) - MOST_CLAUSES} more)" if len(clauses) > MOST_CLAUSES else ""
    return ", ".join(clauses[:MOST_CLAUSES]) + more


def reference(thing: Any) -> str:
    """Where a class, a function or the class of an object is defined."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}:{named.__qualname__}"


def as_text(value: Any) -> Any:
    """``value`` if JSON can hold it, else a short text that does not hold an address."""
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, (list, tuple)) and len(value) <= LONGEST_TEXT:
        return [as_text(item) for item in value]
    if isinstance(value, dict):
        return {str(key): as_text(item) for key, item in value.items()}
    if hasattr(value, "__qualname__"):
        return reference(value)
    text = repr(value)
    if " at 0x" in text:
        return type(value).__qualname__
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."


def _items_digest(contents: Contents, dataset: Any, name: str) -> tuple[str, list[str]]:
    """The digest of some items, read as if every random generator had just been seeded."""
    if isinstance(dataset, IterableDataset):
        return _first_items_digest(contents, dataset, name)
    count = len(dataset)
    step = max(1, PROBED_ITEMS - 1)
    items = []
    for position in sorted({round(i * (count - 1) / step) for i in range(PROBED_ITEMS)}):
        try:
            with fixed_seeds(contents.generators):
                items.append(dataset[position])
        except Exception as error:  # training says more, should it meet this item
            return "", [f"{name}[{position}] cannot be read ({type(error).__name__}: {error})"]
    return contents.digest([count, *items], f"an item of the {name}")


def _first_items_digest(contents: Contents, stream: Any, name: str) -> tuple[str, list[str]]:
    """Of a copy, as reading may consume; a stream that cannot be copied counts by its state."""
    _, refused = contents.digest(stream, name)
    if refused or contents.bytes_read > COPIED_BYTES:
        return "", []
    try:
        with fixed_seeds(contents.generators):
            items = list(islice(iter(copy.deepcopy(stream)), PROBED_ITEMS))
    except Exception:
        return "", []
    return contents.digest(items, f"an item of the {name}")


def _of_the_main_process(value: list) -> list:
    """``value`` as rank 0 has it: ranks that disagreed on what to train would wait for ever."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        from accelerate import Accelerator
        from accelerate.utils import broadcast_object_list

        Accelerator()  # sets up the processes as training does: on CPUs where the launcher says so
        return broadcast_object_list(value)
    return value


def _by_another_python(then: str, now: str) -> bool:
    versions = [digest.partition("-py")[2] for digest in (then, now)]
    return all(versions) and versions[0] != versions[1]
