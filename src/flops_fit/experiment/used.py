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
from flops_fit.plugins.unseen import unseen_readers
from flops_fit.plugins.uses import (
    Uses,
    copied_uses,
    installed_uses,
    named_files,
    named_folders,
    names_of,
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
    relative to ``search_paths``. A folder that arguments name counts where the run looked into it,
    where a library may have done so unseen, or where the data did not run, which are prepared later.
    """
    paths = tuple(search_paths)
    dataset = config["dataset"]
    not_run = {**dataset["kwargs"], **dataset["prepare_kwargs"]} if dataset["example"] else {}
    seen = watch.uses(roots_of(paths))
    unseen = unseen_readers(users_files(config, named_uses(config, paths) | seen, paths))
    folders = {
        text: path
        for text, path in named_folders(_arguments(config), paths).items()
        if unseen or watch.looked_into(path)
    } | named_folders(not_run, paths)
    files = {
        name: path
        for name, path in seen.files.items()
        if not any(Path(path).resolve().is_relative_to(Path(f).resolve()) for f in folders.values())
    }
    packages = installed_uses(references_of(config), paths) | copied_uses(watch.imported())
    return _new(Uses(seen.code, {**files, **folders}) | packages, config, paths)


def read_elsewhere(
    watch: Watch, config: Mapping[str, Any], search_paths: Iterable[str]
) -> list[Path]:
    """What the trial run that ``watch`` has watched read in folders for temporary or cached files.

    Without what the identity of the experiments of ``config`` covers, since arguments or sources, which
    are looked for below ``search_paths``, name it.
    """
    paths = tuple(search_paths)
    arguments = _arguments(config)
    named = {**named_files(arguments, paths), **named_folders(arguments, paths)}
    places = [Path(path).resolve() for path in named.values()]
    read = Uses(files={str(path): str(path) for path in watch.read_elsewhere()})
    new = map(Path, _new(read, config, paths).files)
    return [p for p in new if not any(p.resolve().is_relative_to(place) for place in places)]


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


def late_uses(watch: Watch, spec: Spec) -> tuple[Uses, int]:
    """What the job of ``spec`` used that its plan does not cover, at most `MOST_LATE` of each kind.

    ``watch`` has watched the job. Also how many more modules or files there were.
    """
    paths = tuple(spec.search_paths)
    return _unplanned(_new(watch.uses(roots_of(paths)), _config_of(spec), paths), spec)


def _config_of(spec: Spec) -> dict[str, Any]:
    """The sections of a config that say which code and data the runs of ``spec`` use."""
    shared = spec.plugins.shared
    config = {name: vars(getattr(shared, name)) for name in ("model", "loss", "optimizer")}
    dataset = {**vars(shared.dataset), "sources": [s for s, _ in shared.dataset.sources]}
    metrics = {
        name: {
            "function": part.function,
            "dataset": part.dataset and {"factory": part.dataset, "kwargs": part.kwargs},
        }
        for name, part in shared.metrics.items()
    }
    return config | {"dataset": dataset, "metrics": metrics}


def prepare_uses(
    results: str | Path, prepare: str, search_paths: Iterable[str], hashes: FileHashes
) -> Uses:
    """What the preparation of data by ``prepare``, an import path, rests on beyond its package.

    That is what its import statements reach below ``search_paths``, the distribution that it is from,
    and what it was seen to use below ``results`` that is not as it was first seen by ``hashes``.
    """
    paths = tuple(search_paths)
    beyond = _beyond(static_uses([prepare], paths), prepare, paths)
    late = changed_late(results, [prepare], hashes, paths)
    return beyond | installed_uses([prepare], paths) | late


def _beyond(uses: Uses, reference: str, paths: tuple[str, ...]) -> Uses:
    """``uses`` without the code that the fingerprint of ``reference`` covers."""
    covered = {file.resolve() for file in source_files(reference, paths)}
    code = {name: path for name, path in uses.code.items() if Path(path).resolve() not in covered}
    return Uses(code, uses.files, uses.packages)


def late_prepare_uses(watch: Watch, spec: Spec) -> tuple[Uses, int]:
    """What the preparation of the data of ``spec``, which ``watch`` has watched, used unplanned.

    At most `MOST_LATE` of each kind, and how many more there were.
    """
    paths = tuple(spec.search_paths)
    prepare = spec.plugins.shared.dataset.prepare
    assert prepare is not None
    known = set(static_uses([prepare], paths).code.values())
    uses = _new(watch.uses(roots_of(paths)), _config_of(spec), paths)
    code = {name: path for name, path in uses.code.items() if path not in known}
    return _at_most(Uses(code, uses.files), spec)


def late_script_uses(
    used: Iterable[str], spec: Spec, results: str | Path, started: float
) -> tuple[Uses, list[str], int]:
    """What the script of ``spec`` used that its plan does not cover, among the paths ``used``.

    Also the names of files that are too large to be hashed unasked, and how many more there were
    than are kept. Files below ``results`` are left
    out, and those that are newer than ``started``, the time of the first start: runs wrote them.
    """
    search_paths = [Path(path).resolve() for path in spec.search_paths]
    roots, left_out = roots_of(spec.search_paths), [Path(results).resolve()]
    kinds: dict[str, list[Path]] = {"code": [], "files": [], "large": []}
    for path in map(Path, used):
        if is_input(path, search_paths, left_out) and path.stat().st_mtime < started:
            small = path.stat().st_size <= LARGEST_LATE
            kinds["large" if not small else "code" if path.suffix == ".py" else "files"].append(
                path
            )
    code, files, large = (
        {name: str(path) for path, name in names_of(paths, roots).items()}
        for paths in kinds.values()
    )
    late, more = _unplanned(Uses(code, files), spec)
    return late, [*_unplanned(Uses(files=large), spec)[0].files], more


def _unplanned(uses: Uses, spec: Spec) -> tuple[Uses, int]:
    """``uses`` without what the plan of ``spec`` covers, at most `MOST_LATE` of each kind.

    Also how many more there were.
    """
    planned = [*spec.uses.code.values(), *spec.uses.files.values()]
    covered = [Path(path).resolve() for path in planned]
    code, files = (
        {
            name: path
            for name, path in kind.items()
            if not any(Path(path).resolve().is_relative_to(place) for place in covered)
        }
        for kind in (uses.code, uses.files)
    )
    return _at_most(Uses(code, files), spec)


def _at_most(uses: Uses, spec: Spec) -> tuple[Uses, int]:
    """At most `MOST_LATE` modules and files of ``uses``, and how many more there were.

    A file outside of the search paths of ``spec`` is named by its whole path.
    """
    roots = roots_of(spec.search_paths)
    code, files = (
        {
            name if any(Path(path).is_relative_to(root) for root in roots) else path: path
            for name, path in sorted(kind.items())
        }
        for kind in (uses.code, uses.files)
    )
    kept = Uses(dict([*code.items()][:MOST_LATE]), dict([*files.items()][:MOST_LATE]))
    return kept, len(code) + len(files) - len(kept.code) - len(kept.files)


def changed_late(
    results: str | Path,
    references: Iterable[str],
    hashes: FileHashes,
    search_paths: Iterable[str] = (),
) -> Uses:
    """What only jobs used, of the code that ``references`` name, and is not as it was first seen.

    ``results`` keeps what jobs used; ``hashes``: the hashes of files that are known. Files are looked
    for below ``search_paths`` first: the folder of the project may be a copy of that of the jobs.
    """
    known = _read_late(results).get(_late_key(references), {})
    changed, roots = Uses(), roots_of(search_paths)
    for name, entry in known.items():
        here = next((str(root / name) for root in roots if (root / name).is_file()), entry["path"])
        one = Uses.one(entry["kind"], name, here)
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


def late_sentences(late: Iterable[str], more: int, key: str, who: str = "run") -> list[str]:
    """What is printed where a run, or ``who``, used ``late``, files that its plan does not have.

    And so many ``more``: changes of these are only noticed where the config names them under ``key``.
    """
    sentences = []
    if names := ", ".join(late):
        sentences.append(
            f"used by the {who}, but not by the plan: {names}; changes of these are noticed from now "
            "on"
        )
    if more:
        sentences.append(
            f"{more} more files are used by the {who}, but not by the plan; changes of these are not "
            f"followed, so name their folder under {key}"
        )
    return sentences


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
