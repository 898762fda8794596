"""Write files whole or not at all, read JSON, and hash plain data."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flops_fit.errors import FlopsFitError

FORMAT = 1  # part of every JSON object we write; raised when an older version would misread it


def write_atomic(path: str | Path, data: str | bytes) -> None:
    """Write ``data`` to ``path`` whole or not at all.

    The data go to a temporary file in the same folder, which is flushed to disk and then renamed.
    """
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


def write_json(path: str | Path, value: object) -> None:
    """Write ``value`` to ``path`` as indented JSON, whole or not at all.

    Raises ValueError for NaN and infinity.
    """
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read the JSON file ``path``.

    Raises `FlopsFitError` that names the file where it is missing, unreadable or not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise FlopsFitError(f"{path}: no such file") from None
    except OSError as error:
        raise FlopsFitError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise FlopsFitError(f"{path}: not valid JSON ({error})") from None


def write_object(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write ``value`` as a JSON object with its ``format`` to ``path``, whole or not at all."""
    write_json(path, {"format": FORMAT, **value})


def read_object(path: str | Path) -> dict[str, Any]:
    """Read the JSON object that `write_object` wrote to ``path``, without its ``format``.

    Raises `FlopsFitError` for a file that is missing, broken, not an object, or of a newer version.
    """
    value = read_json(path)
    check_format(value, path)
    if not isinstance(value, dict):
        raise FlopsFitError(f"{path}: a JSON {type(value).__name__}; allowed: a JSON object")
    return {name: part for name, part in value.items() if name != "format"}


def check_format(value: object, name: str | Path) -> None:
    """Refuse a JSON object that a newer version of flops-fit wrote, because its meaning may differ.

    ``value`` is the object as read from the file ``name``. The oldest versions wrote no ``format``;
    such an object is accepted. Raises `FlopsFitError` that names the file and the format.
    """
    version = value.get("format", 0) if isinstance(value, dict) else 0
    if not isinstance(version, int) or version > FORMAT:
        raise FlopsFitError(
            f"{name}: format {version!r} was written by a newer version of flops-fit; allowed: up to "
            f"{FORMAT}; upgrade flops-fit, or make the file again"
        )


def canonical_hash(value: object) -> str:
    """Return the SHA-256 (hex) of the plain data ``value``, whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
