"""Identify the objects that a call of the Python API receives, by hashes of their content."""

import copy
import os
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch.utils.data import IterableDataset
from tqdm import tqdm

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.options import TRAINER_VERSION
from flops_fit.files import canonical_hash
from flops_fit.plugins.content import PYTHON, Contents
from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.randomness import fixed_seeds
from flops_fit.sweep import Experiment
from flops_fit.training.local import Call, ResultsFile, is_main_process, say

PROBED_ITEMS = 32  # items of each part of the data, spread evenly; of a stream, the first ones
COPIED_BYTES = 2**28  # a stream with a larger state is not copied, and its items are not read
SETTLING_SECONDS = 2.0  # objects that took longer to hash are not hashed again after training
LONGEST_TEXT = 200  # characters, or items of a list
MOST_CLAUSES = 3  # clauses in a sentence; further ones are counted
TRUST = "trust"  # the value of resume that assumes that what cannot be compared is unchanged
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
    "train_fn": "train_fn",
}
# Digest of an object when a call ended -> its digest when the call began. A call itself changes
# objects: reading fills caches and advances generators. Only this process sees them in that state.
_settled: dict[str, str] = {}


class Options(Protocol):
    """The options of one experiment."""

    def deciding(self) -> dict[str, Any]:
        """Those that decide the result, by name."""


AnyOptions = TypeVar("AnyOptions", bound=Options)


@dataclass(frozen=True)
class LocalIdentity:
    """The objects of one call and their hashes.

    ``objects`` holds the objects by the names of `PARTS`, ``content`` their digests, and
    ``readable`` a description for people. ``fixed`` are further settings that decide every result.
    ``refused`` holds one clause for each part that cannot be hashed. Hashing took ``seconds``, and
    ``hashes`` caches the hashes of files. ``generators`` are the random ones that the objects hold.
    """

    objects: dict[str, Any]
    readable: dict
    fixed: dict[str, Any]
    content: dict[str, str]
    refused: list[str]
    seconds: float
    hashes: FileHashes
    generators: list[Any]

    @classmethod
    def of(cls, call: Call, folder: Path) -> "LocalIdentity":
        """Hash the objects of ``call``; the hashes of files are cached in ``folder``."""
        kwargs = call.model_kwargs or {}
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
        fixed = {"size_param": call.size_param, "trainer_version": TRAINER_VERSION}
        return cls._hashed(objects, readable, fixed, folder)

    @classmethod
    def of_function(
        cls, train_fn: Callable[..., Any], readable: dict, folder: Path
    ) -> "LocalIdentity":
        """Hash ``train_fn``, the function that trains every experiment.

        ``readable`` describes it for people; the hashes of files are cached in ``folder``.
        """
        return cls._hashed({"train_fn": train_fn}, readable, {}, folder)

    @classmethod
    def _hashed(
        cls, objects: dict[str, Any], readable: dict, fixed: dict[str, Any], folder: Path
    ) -> "LocalIdentity":
        started = time.monotonic()
        contents = Contents(FileHashes(folder / "hashes.json"), say)
        content: dict[str, str] = {}
        refused: list[str] = []
        for part, value in objects.items():
            content[part], problems = contents.digest(value, PARTS[part])
            content[part] = _settled.get(content[part], content[part])
            refused += problems
        for part in [part for part in ("train", "heldout") if part in objects]:
            content[f"{part}_items"], problems = _items_digest(contents, objects[part], PARTS[part])
            refused += problems
        if is_main_process():
            contents.hashes.save()
        content, refused = of_the_main_process([content, sorted(set(refused))])
        seconds = time.monotonic() - started
        hashes, generators = contents.hashes, [*contents.generators]
        return cls(objects, readable, fixed, content, refused, seconds, hashes, generators)

    def settle(self) -> None:
        """Remember the state of the objects after training, so that it does not count as a change."""
        if self.seconds > SETTLING_SECONDS:
            return
        contents = Contents(self.hashes, say)
        for part, value in self.objects.items():
            after, _ = contents.digest(value, PARTS[part])
            if after != self.content[part]:
                _settled[after] = self.content[part]

    def settings(self, options: Options) -> dict:
        """Return what decides a result besides the content of the objects, with ``options``."""
        return {**self.fixed, **options.deciding()}

    def hash(self, size: Any, options: Options) -> str:
        """Return the hash of the experiment with this ``size`` and these ``options``."""
        digest, _ = Contents(self.hashes, say).digest(size, "size")
        return canonical_hash({**self.settings(options), "size": digest, "content": self.content})

    def once(self, digest: str) -> str:
        """Return ``digest``, made unique where a part of the objects cannot be hashed."""
        return f"{digest}-{uuid.uuid4().hex}" if self.refused else digest

    def record(self, options: Options) -> dict:
        """Return the part of a record that describes the objects and ``options``, with digests."""
        settings = self.settings(options)
        settings.pop("size_param", None)  # part of the model
        return {
            **self.readable,
            "content": self.content,
            "not_hashed": self.refused,
            "python": PYTHON,
            **settings,
        }

    def difference(self, stored: dict, size: Any, options: Options, trust: bool) -> str:
        """Return in which way the ``stored`` record was trained differently, or an empty text.

        The text follows "trained with". The record is compared with the experiment of ``size`` and
        ``options``. Where ``trust`` is true, bytecode of another version of Python counts as equal.
        """
        if stored.get("hash") == self.hash(size, options):
            return ""
        identity = stored.get("identity", {})
        then = identity.get("content")
        if not isinstance(then, dict):
            return "an older version of flops-fit, which recorded less"
        before = {**identity, **identity.get("model", {})}
        settings = self.settings(options)
        if canonical_hash(settings) != canonical_hash(
            {name: before.get(name) for name in settings}
        ):
            return "other settings"
        differing = {part for part in PARTS if then.get(part) != self.content.get(part)}
        compiled = {
            part
            for part in differing
            if _by_another_python(str(then.get(part)), str(self.content.get(part)))
        }
        if differing - compiled:
            names = dict.fromkeys(PARTS[part] for part in PARTS if part in differing - compiled)
            return f"another {' and '.join(names)}"
        if not compiled:
            return "another size"
        return "" if trust else f"another Python ({identity.get('python')}, this is {PYTHON})"


def check_resume(resume: bool | str) -> None:
    """Check the value of ``resume``.

    Raises `FlopsFitError` for anything but True, False and "trust".
    """
    if resume not in (True, False, TRUST):
        raise FlopsFitError(f"resume: {resume!r}; allowed: True, False, {TRUST!r}")


def train_missing(
    planned: list[tuple[Experiment, AnyOptions]],
    results: ResultsFile,
    identity: LocalIdentity,
    resume: bool | str,
    train_one: Callable[[Experiment, AnyOptions], dict],
    try_out: Callable[[], None] = lambda: None,
) -> list[dict]:
    """Return the records of the planned experiments, in their order, and train those that are missing.

    ``planned``, ``identity`` and ``resume`` are those of `reusable_records`; ``results`` holds the
    records so far. ``train_one(experiment, options)`` trains an experiment, stores its record in
    ``results`` and returns it; ``try_out()`` comes before the first. Prints how many were reused and
    trained.
    """
    reused = reusable_records(planned, results.records, identity, resume)
    left = [pair for pair in planned if pair[0].experiment_id not in reused]
    trained = {}
    try:
        if left:
            try_out()
        for experiment, options in tqdm(left, "sweep", disable=not is_main_process()):
            trained[experiment.experiment_id] = train_one(experiment, options)
    finally:
        identity.settle()
    say(f"runs: {len(reused)} reused from {results.path}, {len(trained)} trained")
    return [(reused | trained)[experiment.experiment_id] for experiment, _ in planned]


def reusable_records(
    planned: Sequence[tuple[Experiment, Options]],
    records: dict[str, dict],
    identity: LocalIdentity,
    resume: bool | str,
) -> dict[str, dict]:
    """Return the stored records that can be used for the planned experiments, by id.

    ``planned`` holds the experiments with their options, ``records`` the stored records by id, and
    ``identity`` describes the objects of this call. ``resume`` is False (use none), True, or
    "trust" (assume that what cannot be hashed is unchanged). Prints why others are not used.
    """
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
            f"{_listed(identity.refused)}, which cannot be compared with an earlier call: "
            + (
                "it is assumed to be unchanged"
                if trust
                else 'every run is trained; resume="trust" assumes that it is unchanged'
            )
        )
    return reusable


def _listed(clauses: list[str]) -> str:
    more = f" (and {len(clauses) - MOST_CLAUSES} more)" if len(clauses) > MOST_CLAUSES else ""
    return ", ".join(clauses[:MOST_CLAUSES]) + more


def reference(thing: Any) -> str:
    """Return ``module:name`` of ``thing``, or of its class where it has no name."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}:{named.__qualname__}"


def as_text(value: Any) -> Any:
    """Return ``value`` as data that JSON can hold; an object becomes a short text without address."""
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
    """Return the digest of some items, read as if all random generators had just been seeded."""
    if isinstance(dataset, IterableDataset):
        return _first_items_digest(contents, dataset, name)
    count = len(dataset)
    step = max(1, PROBED_ITEMS - 1)
    items = []
    for position in sorted({round(i * (count - 1) / step) for i in range(PROBED_ITEMS)}):
        try:
            with fixed_seeds(contents.generators):
                items.append(dataset[position])
        except Exception as error:  # training will report more, if it reads this item
            return "", [f"{name}[{position}] cannot be read ({type(error).__name__}: {error})"]
    return contents.digest([count, *items], f"an item of the {name}")


def _first_items_digest(contents: Contents, stream: Any, name: str) -> tuple[str, list[str]]:
    """Return the digest of the first items of a copy of a stream, because reading may consume it.

    The digest is empty where the stream cannot be copied; its state then counts alone.
    """
    _, refused = contents.digest(stream, name)
    if refused or contents.bytes_read > COPIED_BYTES:
        return "", []
    try:
        with fixed_seeds(contents.generators):
            items = list(islice(iter(copy.deepcopy(stream)), PROBED_ITEMS))
    except Exception:
        return "", []
    return contents.digest(items, f"an item of the {name}")


def of_the_main_process(value: list) -> list:
    """Return the ``value`` of rank 0; ranks that disagree on what to train would wait for ever."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        from accelerate import Accelerator
        from accelerate.utils import broadcast_object_list

        Accelerator()  # sets up the processes as training does, on CPUs if the launcher says so
        return broadcast_object_list(value)
    return value


def _by_another_python(then: str, now: str) -> bool:
    versions = [digest.partition("-py")[2] for digest in (then, now)]
    return all(versions) and versions[0] != versions[1]
