"""Files that exist whole or not at all, and hashes of plain data."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flops_fit.errors import FlopsFitError

FORMAT = 1  # stands in the JSON objects that we write; raised when older readers would misread them


def write_atomic(path: str | Path, data: str | bytes) -> None:
    """Write ``data`` to ``path``: beside it, flushed to disk, then renamed over it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, str):
        data = data.encode()
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinity are refused."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON; a missing or broken file is a `FlopsFitError` that names it."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise FlopsFitError(f"{path}: no such file") from None
    except OSError as error:
        raise FlopsFitError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise FlopsFitError(f"{path}: not valid JSON ({error})") from None


def write_object(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write ``value`` as a JSON object with its ``format`` to ``path``, atomically."""
    write_json(path, {"format": FORMAT, **value})


def read_object(path: str | Path) -> dict[str, Any]:
    """Read the JSON object that `write_object` left at ``path``, without its ``format``.

    Raises `FlopsFitError` for a file that is missing, broken, no object, or of a newer version.
    """
    value = read_json(path)
    check_format(value, path)
    if not isinstance(value, dict):
        raise FlopsFitError(f"{path}: {type(value).__name__}; allowed: a JSON object")
    return {name: part for name, part in value.items() if name != "format"}


def check_format(value: Any, name: str | Path) -> None:
    """Refuse a JSON object that a newer version of this project wrote: it may mean something else.

    ``value``: as read; one without ``format`` is from before there was one. ``name``: of its file.
    """
    found = value.get("format", 0) if isinstance(value, dict) else 0
    if not isinstance(found, int) or found > FORMAT:
        raise FlopsFitError(
            f"{name}: format {found!r}, which a newer version of flops-fit wrote; allowed: up to "
            f"{FORMAT}, so upgrade, or make it again"
        )


def canonical_hash(value: Any) -> str:
    """SHA-256 (hex) of plain data, independent of key order and white space."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
