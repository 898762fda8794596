"""What a finished experiment leaves behind: ``record.json``, the truth, and ``result.json``, its copy.

The record is never declared to Snakemake, which deletes declared outputs before a rerun, after a
failure and after a kill; so a finished run is never repeated.
"""

import contextlib
import json
import shutil
import sys
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.files import canonical_hash, check_format, read_json, write_atomic, write_json

RECORD, RESULT, FAILURE = "record.json", "result.json", "failure.json"
CHECKPOINTS = "checkpoints"
COMPLETED, DIVERGED = "completed", "diverged"
KINDS = {
    "a number": (int, float),
    "a number or null": (int, float, type(None)),
    "text": str,
    "a mapping": dict,
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


def check_record(content: bytes, experiment_id: str, identity_hash: str | None = None) -> dict:
    """Parse and verify a sealed record; a `FlopsFitError` says what is wrong with it.

    With ``identity_hash`` given, a record of another experiment under the same id is refused too.
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
    if identity_hash is not None and record.get("hash") != identity_hash:
        raise FlopsFitError("its hash is not that of the planned experiment")
    _check_fields(record)
    return seal(record)


def _check_fields(record: dict) -> None:
    """Refuse a record whose fields are not what its readers take them for."""
    check_format(record, "record")
    status = record.get("status")
    if status not in (COMPLETED, DIVERGED):
        raise FlopsFitError(f"status: {status!r}; expected {COMPLETED} or {DIVERGED}")
    wanted = {"tokens_seen": "a number", "reason": "text"}
    if status == COMPLETED:
        wanted["final_loss"] = "a number"
    for key, kind in (wanted | {key: FIELDS[key] for key in FIELDS if key in record}).items():
        value = record.get(key)
        if key in record and (isinstance(value, KINDS[kind]) and not isinstance(value, bool)):
            continue
        shown = f"{value!r:.60}" if key in record else "missing"
        raise FlopsFitError(f"{key}: {shown}; expected {kind}")


def read_record(path: str | Path, experiment_id: str, identity_hash: str | None = None) -> dict:
    """Read and verify a record file; errors name the file."""
    try:
        return check_record(Path(path).read_bytes(), experiment_id, identity_hash)
    except FileNotFoundError:
        raise FlopsFitError(f"{path}: no such file") from None
    except OSError as error:
        raise FlopsFitError(f"{path}: cannot be read ({error.strerror})") from None
    except FlopsFitError as error:
        raise FlopsFitError(f"{path}: {error}") from None


def finished_before(folder: Path, experiment_id: str, identity_hash: str) -> bool:
    """Whether ``folder`` holds the sound record of exactly this experiment.

    A broken or foreign one is named and moved aside.
    """
    path = folder / RECORD
    if not path.exists():
        return False
    try:
        read_record(path, experiment_id, identity_hash)
    except FlopsFitError as error:
        kept = set_aside(path)
        print(f"flops-fit: {error}; moved to {kept.name}, training again", file=sys.stderr)
        return False
    return True


def finish_run(folder: Path, record: dict, result: str | Path) -> None:
    """Write the record, and then what follows from it; after a kill, `restore_run` does the rest."""
    with _writing(folder / RECORD):
        write_json(folder / RECORD, seal(record))
    restore_run(folder, result)


def restore_run(folder: Path, result: str | Path) -> None:
    """Copy the record to ``result`` and remove what no longer counts, half-written files included."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    (folder / FAILURE).unlink(missing_ok=True)
    for path in (folder / RECORD, folder / FAILURE, Path(result)):
        for left in path.parent.glob(f".{path.name}.*"):  # by a kill, see `write_atomic`
            left.unlink()
    with _writing(result):
        write_atomic(result, (folder / RECORD).read_bytes())


@contextlib.contextmanager
def _writing(path: str | Path):
    """Let a full or read-only disk name the file and what to do."""
    try:
        yield
    except OSError as error:
        raise FlopsFitError(
            f"{path}: cannot be written ({error.strerror}); make room or make its folder writable, "
            "and start the run again"
        ) from error


def note_failure(folder: Path, experiment_id: str, identity_hash: str, reason: str) -> bool:
    """Leave ``failure.json`` (which experiment failed and why), and say whether this was the first.

    When one process of several fails, the others fail because of it: only the first reason counts.
    """
    if read_failure(folder, identity_hash) is not None:
        return False
    with contextlib.suppress(OSError):  # the disk itself may be what failed
        failure = {"experiment_id": experiment_id, "hash": identity_hash, "reason": reason}
        write_json(folder / FAILURE, failure)
    return True


def read_failure(folder: Path, identity_hash: str) -> str | None:
    """The reason of a failure of exactly this experiment, or None."""
    try:
        failure = read_json(folder / FAILURE)
    except FlopsFitError:
        return None
    return failure["reason"] if failure.get("hash") == identity_hash else None


def set_aside(path: Path, why: str = "corrupt") -> Path:
    """Move a file to ``NAME.corrupt`` (or another reason), so that nothing reads or loses it."""
    aside = path.with_name(f"{path.name}.{why}")
    path.replace(aside)
    return aside
