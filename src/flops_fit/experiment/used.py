"""What a sweep's plug-ins use beside their packages and named data: a part of the identity.

Three sources add up: what import statements and arguments name, known at every start of the workflow;
what the trial run in the planning process was seen to use, kept in a list of paths beside the plans;
and what only a job saw later (``late``), neutral as long as it stays as it was first seen.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import late_file, seen_file
from flops_fit.experiment.spec import Spec
from flops_fit.files import canonical_hash, read_object, write_object
from flops_fit.plugins.code import source_files
from flops_fit.plugins.data_files import PACKAGE, FileHashes, find_path
from flops_fit.plugins.origin import OWN_FOLDER
from flops_fit.plugins.uses import (
    Uses,
    installed_uses,
    name_of,
    named_files,
    named_folders,
    roots_of,
    static_uses,
    uses_identity,
)
from flops_fit.plugins.watch import Watch, is_input

MOST_LATE = 100  # more single files than this are a data set, whose folder is to be named
LARGEST_LATE = 2**30  # bytes; a larger file that a script read is hashed only where it is named


def references_of(config: Mapping[str, Any]) -> list[str]:
    """The import paths of the plug-ins of ``config`` that decide a result."""
    dataset = config["dataset"]
    named = [config["model"]["factory"], dataset["factory"], dataset["prepare"]]
    named += [config["loss"]["function"], config["optimizer"]["factory"]]
    named += [metric.get("function") for metric in config["metrics"].values()]
    named += [dataset["factory"] for dataset in _metric_data(config)]
    return sorted({reference for reference in named if reference})


def _metric_data(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The sections on data of the metrics of ``config`` that have data of their own."""
    return [metric["dataset"] for metric in config["metrics"].values() if metric["dataset"]]


def named_uses(config: Mapping[str, Any], search_paths: Iterable[str]) -> Uses:
    """What the plug-ins of ``config`` use by their import statements and arguments.

    Only what the identity lacks elsewhere is returned. Files are looked for below ``search_paths``.
    """
    paths = tuple(search_paths)
    files = named_files(_arguments(config), paths)
    return _new(static_uses(references_of(config), paths) | Uses(files=files), config, paths)


def seen_uses(watch: Watch, config: Mapping[str, Any], search_paths: Iterable[str]) -> Uses:
    """What the trial run that ``watch`` has watched used beyond `named_uses`.

    Only what the identity of the experiments of ``config`` lacks elsewhere is returned, with names
    relative to ``search_paths``. A folder that arguments name counts where the run looked into it, or
    where it did not run the data, which are then prepared later.
    """
    paths = tuple(search_paths)
    dataset = config["dataset"]
    not_run = {**dataset["kwargs"], **dataset["prepare_kwargs"]} if dataset["example"] else {}
    folders = {
        text: path
        for text, path in named_folders(_arguments(config), paths).items()
        if watch.looked_into(path)
    } | named_folders(not_run, paths)
    seen = watch.uses(roots_of(paths))
    files = {
        name: path
        for name, path in seen.files.items()
        if not any(Path(path).resolve().is_relative_to(Path(f).resolve()) for f in folders.values())
    }
    installed = installed_uses(references_of(config), paths)
    return _new(Uses(seen.code, {**files, **folders}) | installed, config, paths)


def users_files(
    config: Mapping[str, Any], uses: Uses, search_paths: Iterable[str]
) -> list[str | Path]:
    """The user's source files on which the sweep of ``config`` rests.

    They lie below ``search_paths``; ``uses`` are what its plug-ins use beside.
    """
    counted = _sources(config, tuple(search_paths))
    files = sorted(file for file in counted if not file.is_relative_to(OWN_FOLDER))
    return [*files, *uses.code.values()]


def _sources(config: Mapping[str, Any], paths: tuple[str, ...]) -> set[Path]:
    """The files behind the fingerprints of the plug-ins' sources."""
    return {file for reference in references_of(config) for file in source_files(reference, paths)}


def _arguments(config: Mapping[str, Any]) -> list[Any]:
    dataset = config["dataset"]
    kwargs = [config["model"]["kwargs"], config["optimizer"]["kwargs"]]
    kwargs += [data["kwargs"] for data in _metric_data(config)]
    return [*kwargs, dataset["kwargs"], dataset["prepare_kwargs"]]


def _new(uses: Uses, config: Mapping[str, Any], paths: tuple[str, ...]) -> Uses:
    """``uses`` without what the fingerprints of sources and the hashes of data cover already."""
    dataset = config["dataset"]
    values = [*dataset["kwargs"].values(), *dataset["prepare_kwargs"].values()]
    values += [value for data in _metric_data(config) for value in data["kwargs"].values()]
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    named = [find_path(text, paths) for text in texts if isinstance(text, str) and text]
    sources = [find_path(s, paths) for s in dataset["sources"] if s and not s.startswith(PACKAGE)]
    covered = {path.resolve() for path in _sources(config, paths)}
    covered |= {path.resolve() for path in named if path is not None and path.is_file()}
    places = [path.resolve() for path in sources if path is not None]

    def is_new(path: str) -> bool:
        resolved = Path(path).resolve()
        return resolved not in covered and not any(resolved.is_relative_to(p) for p in places)

    code = {name: path for name, path in uses.code.items() if is_new(path)}
    files = {name: path for name, path in uses.files.items() if is_new(path)}
    return Uses(code, files, uses.packages)


def read_seen(results: str | Path, fingerprint: str) -> Uses | None:
    """What the trial run of the plan of ``fingerprint`` used, as `write_seen` left it below ``results``.

    None where there is nothing, or nothing that this version can read.
    """
    with contextlib.suppress(FlopsFitError, KeyError, TypeError, ValueError):
        return Uses.from_dict(read_object(seen_file(results, fingerprint)))
    return None


def write_seen(results: str | Path, fingerprint: str, uses: Uses) -> None:
    """Keep the ``uses`` of the trial run of the plan of ``fingerprint`` below ``results``."""
    write_object(seen_file(results, fingerprint), uses.to_dict())


def late_uses(watch: Watch, spec: Spec) -> Uses:
    """What the job of ``spec`` used that its plan does not cover, at most `MOST_LATE` of each kind.

    ``watch`` has watched the job.
    """
    shared, paths = spec.plugins.shared, tuple(spec.search_paths)
    config = {name: vars(getattr(shared, name)) for name in ("model", "loss", "optimizer")}
    dataset = {**vars(shared.dataset), "sources": [s for s, _ in shared.dataset.sources]}
    metrics = {
        name: {
            "function": part.function,
            "dataset": part.dataset and {"factory": part.dataset, "kwargs": part.kwargs},
        }
        for name, part in shared.metrics.items()
    }
    config |= {"dataset": dataset, "metrics": metrics}
    return _unplanned(_new(watch.uses(roots_of(paths)), config, paths), spec)


def late_script_uses(
    used: Iterable[str], spec: Spec, results: str | Path, started: float
) -> tuple[Uses, list[str]]:
    """What the script of ``spec`` used that its plan does not cover, among the paths ``used``.

    Also the names of files that are too large to be hashed unasked. Files below ``results`` are left
    out, and those that are newer than ``started``, the time of the first start: runs wrote them.
    """
    search_paths = [Path(path).resolve() for path in spec.search_paths]
    roots, left_out = roots_of(spec.search_paths), [Path(results).resolve()]
    kinds: dict[str, dict[str, str]] = {"code": {}, "files": {}, "large": {}}
    for text in used:
        path = Path(text)
        if is_input(path, search_paths, left_out) and path.stat().st_mtime < started:
            small = path.stat().st_size <= LARGEST_LATE
            kind = "large" if not small else "code" if path.suffix == ".py" else "files"
            kinds[kind][name_of(path, roots)] = text
    large = _unplanned(Uses(files=kinds["large"]), spec)
    return _unplanned(Uses(kinds["code"], kinds["files"]), spec), [*large.files]


def _unplanned(uses: Uses, spec: Spec) -> Uses:
    """``uses`` without what the plan of ``spec`` covers, at most `MOST_LATE` of each kind."""
    planned = [*spec.uses.code.values(), *spec.uses.files.values()]
    covered = [Path(path).resolve() for path in planned]
    code, files = (
        {
            name: path
            for name, path in sorted(kind.items())
            if not any(Path(path).resolve().is_relative_to(place) for place in covered)
        }
        for kind in (uses.code, uses.files)
    )
    return Uses(dict([*code.items()][:MOST_LATE]), dict([*files.items()][:MOST_LATE]))


def changed_late(results: str | Path, references: Iterable[str], hashes: FileHashes) -> Uses:
    """What only jobs used, of the code that ``references`` name, and is not as it was first seen.

    ``results`` keeps what jobs used; ``hashes``: the hashes of files that are known.
    """
    known = _read_late(results).get(_late_key(references), {})
    changed = Uses()
    for name, entry in known.items():
        one = Uses.one(entry["kind"], name, entry["path"])
        if uses_identity(one, hashes).get(entry["kind"], {}).get(name) != entry["digest"]:
            changed = changed | one
    return changed


def note_late(
    results: str | Path, references: Iterable[str], uses: Uses, hashes: FileHashes
) -> dict[str, dict[str, str]]:
    """Keep ``uses``, what a job used beyond its plan; returns it with its digests, for the record.

    It is kept below ``results`` for the code that ``references`` name; ``hashes``: of files that are
    known.
    """
    digests = uses_identity(uses, hashes)
    seen = {
        name: {"kind": kind, "path": getattr(uses, kind)[name], "digest": digest}
        for kind in ("code", "files")
        for name, digest in digests.get(kind, {}).items()
    }
    keep_late(results, references, seen)
    return seen


def late_sentence(late: Iterable[str]) -> str:
    """What is printed where a job used ``late``, names of files that its plan does not have."""
    return (
        f"used by the run, but not by the plan: {', '.join(late)}; changes of these are noticed from "
        "now on"
    )


def keep_late(
    results: str | Path, references: Iterable[str], late: Mapping[str, Mapping[str, str]]
) -> None:
    """Add ``late`` to what is watched from now on, each entry as it was first seen.

    It is kept below ``results`` for the code that ``references`` name; `note_late` returns such
    entries.
    """
    if late:
        known, key = _read_late(results), _late_key(references)
        merged = {**late, **known.get(key, {})}
        if merged != known.get(key):
            write_object(late_file(results), {**known, key: merged})


def other_late(late: Mapping[str, Mapping[str, str]], search_paths: Iterable[str]) -> list[str]:
    """Names in ``late``, what the run of a record used, that have another content here.

    They are looked for below ``search_paths``.
    """
    paths, hashes, other = tuple(search_paths), FileHashes(os.devnull), []
    for name, entry in late.items():
        path = find_path(name, paths)
        if path is None:
            continue
        here = uses_identity(Uses.one(entry["kind"], name, str(path)), hashes)
        if here.get(entry["kind"], {}).get(name) != entry["digest"]:
            other.append(name)
    return other


def _late_key(references: Iterable[str]) -> str:
    return canonical_hash(sorted(references))[:16]


def _read_late(results: str | Path) -> dict[str, Any]:
    with contextlib.suppress(FlopsFitError):
        return read_object(late_file(results))
    return {}
