"""What a finished experiment leaves behind: ``record.json``, the truth, and ``result.json``, its copy.

The record is never declared to Snakemake, which deletes declared outputs before a rerun, after a
failure and after a kill; so a finished run is never repeated.
"""

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from flops_fit.constants import Status
from flops_fit.errors import FlopsFitError
from flops_fit.files import (
    canonical_hash,
    check_format,
    read_object,
    write_atomic,
    write_json,
    write_object,
)

RECORD, RESULT, FAILURE = "record.json", "result.json", "failure.json"
CHECKPOINTS = "checkpoints"
ENDS = (Status.COMPLETED, Status.DIVERGED)  # of a run that leaves a record
KINDS: dict[str, tuple[type, ...]] = {
    "a number": (int, float),
    "a number or null": (int, float, type(None)),
    "text": (str,),
    "a mapping": (dict,),
}
FIELDS = {
    "identity": "a mapping",
    "loss_curve": "a mapping",
    "epochs": "a number or null",
    "final_loss_se": "a number or null",
    "steps_done": "a number",
    "wall_seconds": "a number",
    "tokens_per_second": "a number",
}


def seal(record: dict) -> dict:
    """``record`` with a checksum over everything else in it."""
    return {**record, "checksum": canonical_hash(record)}


def check_record(content: bytes, experiment_id: str, experiment_hash: str | None = None) -> dict:
    """The sealed record in ``content``, the bytes of its file, parsed and verified.

    Raises `FlopsFitError` that says what is wrong with it: broken, edited, or not the record of
    ``experiment_id``. With ``experiment_hash`` given, a record of another experiment under the same
    id is refused too.
    """
    try:
        record = json.loads(content)
        checksum = record.pop("checksum")
        sound = canonical_hash(record) == checksum
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
        raise FlopsFitError("not a whole JSON record") from None
    if not sound:
        raise FlopsFitError("its checksum does not match its content")
    if record.get("experiment_id") != experiment_id:
        raise FlopsFitError(f"it belongs to {record.get('experiment_id')!r}")
    if experiment_hash is not None and record.get("hash") != experiment_hash:
        raise FlopsFitError("its hash is not that of the planned experiment")
    _check_fields(record)
    return seal(record)


def _check_fields(record: dict) -> None:
    """Refuse a record whose fields are not what its readers take them for."""
    check_format(record, "record")
    status = record.get("status")
    if status not in ENDS:
        raise FlopsFitError(f"status: {status!r}; expected {' or '.join(ENDS)}")
    needed = {"tokens_seen": "a number", "reason": "text"}
    if Status(status).usable:
        needed["final_loss"] = "a number"
    for key, kind in (needed | {key: FIELDS[key] for key in FIELDS if key in record}).items():
        value = record.get(key)
        if key in record and (isinstance(value, KINDS[kind]) and not isinstance(value, bool)):
            continue
        shown = f"{value!r:.60}" if key in record else "missing"
        raise FlopsFitError(f"{key}: {shown}; expected {kind}")


def read_record(path: str | Path, experiment_id: str, experiment_hash: str | None = None) -> dict:
    """The record in the file ``path``, verified as in `check_record`.

    ``experiment_id`` and ``experiment_hash``: those of the experiment whose record it must be. Raises
    `FlopsFitError` naming the file.
    """
    try:
        return check_record(Path(path).read_bytes(), experiment_id, experiment_hash)
    except FileNotFoundError:
        raise FlopsFitError(f"{path}: no such file") from None
    except OSError as error:
        raise FlopsFitError(f"{path}: cannot be read ({error.strerror})") from None
    except FlopsFitError as error:
        raise FlopsFitError(f"{path}: {error}") from None


def finished_before(folder: Path, experiment_id: str, experiment_hash: str) -> bool:
    """Whether ``folder`` holds the sound record of ``experiment_id`` with ``experiment_hash``.

    A broken record, or one of another experiment, is named and moved aside.
    """
    path = folder / RECORD
    if not path.exists():
        return False
    try:
        read_record(path, experiment_id, experiment_hash)
    except FlopsFitError as error:
        kept = set_aside(path)
        print(f"flops-fit: {error}; moved to {kept.name}, training again", file=sys.stderr)
        return False
    return True


def finish_run(folder: Path, record: dict, result: str | Path) -> None:
    """Write ``record`` to the run's ``folder``, and then what follows from it, such as ``result``.

    After a kill between the two, `restore_run` does the rest. Raises `FlopsFitError` where nothing
    can be written.
    """
    with _writing(folder / RECORD):
        write_json(folder / RECORD, seal(record))
    restore_run(folder, result)


def restore_run(folder: Path, result: str | Path) -> None:
    """Copy the record in ``folder`` to ``result`` and remove what no longer counts.

    That is checkpoints, notes of failure and half-written files.
    """
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    (folder / FAILURE).unlink(missing_ok=True)
    for path in (folder / RECORD, folder / FAILURE, Path(result)):
        for left in path.parent.glob(f".{path.name}.*"):  # by a kill, see `write_atomic`
            left.unlink()
    with _writing(result):
        write_atomic(result, (folder / RECORD).read_bytes())


@contextlib.contextmanager
def _writing(path: str | Path) -> Iterator[None]:
    """Let a full or read-only disk name the file and what to do."""
    try:
        yield
    except OSError as error:
        raise FlopsFitError(
            f"{path}: cannot be written ({error.strerror}); make room or make its folder writable, "
            "and start the run again"
        ) from error


def note_failure(folder: Path, experiment_id: str, experiment_hash: str, reason: str) -> bool:
    """Leave ``failure.json`` in ``folder``: which experiment failed, and the ``reason``.

    ``experiment_id`` and ``experiment_hash`` name the experiment. Returns whether this was the first
    reason: when one process of several fails, the others fail because of it, so only the first counts.
    """
    if read_failure(folder, experiment_hash) is not None:
        return False
    with contextlib.suppress(OSError):  # the disk itself may be what failed
        failure = {"experiment_id": experiment_id, "hash": experiment_hash, "reason": reason}
        write_object(folder / FAILURE, failure)
    return True


def read_failure(folder: Path, experiment_hash: str) -> str | None:
    """Why the experiment of ``experiment_hash`` failed, as ``folder`` has it; None if it did not."""
    try:
        failure = read_object(folder / FAILURE)
    except FlopsFitError:
        return None
    return failure.get("reason") if failure.get("hash") == experiment_hash else None


def set_aside(path: Path, why: str = "corrupt") -> Path:
    """Move the file ``path`` to ``NAME.corrupt``, so that nothing reads or loses it.

    Returns the new path.     ``why``: the ending, where another reason than corruption moves it.
    """
    aside = path.with_name(f"{path.name}.{why}")
    path.replace(aside)
    return aside
