"""The file of a bundle: a ZIP whose RO-Crate metadata list every member with its checksum.

Nothing in a bundle is executed or unpickled, and a member is taken only under a name that a bundle
may have, so that nothing is ever written outside of the folder of results.
"""

import hashlib
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flops_fit import __version__
from flops_fit.config.check import RESERVED
from flops_fit.errors import FlopsFitError
from flops_fit.files import write_atomic

FORMAT = 1  # of the bundle; raised when an older version would misread it
METADATA, CARD = "ro-crate-metadata.json", "README.md"
PLAN, CONFIG, FIT = "plan.json", "config.yaml", "fit.json"
TABLE, RECORDS = "results.csv", "results.json"
TEXTS = (
    "report.html",
    "table.md",
    "table.tex",
    "answer.txt",
)  # written into the sweep's folder as they are
TYPES = {
    ".json": "application/json",
    ".csv": "text/csv",
    ".html": "text/html",
    ".md": "text/markdown",
    ".tex": "application/x-tex",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
}
SWEEP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
RUN = re.compile(r"runs/([A-Za-z0-9_+-][A-Za-z0-9._+-]*)/(record|failure)\.json")
GIVEN_TABLE = re.compile(
    r"table(\.[a-z0-9]{1,8}){1,2}"
)  # the table of a sweep that trained nothing
MOST_BYTES = 2 * 10**9  # of all members together
CONTEXT = "https://w3id.org/ro/crate/1.1/context"
TERMS = {
    "sha256": "https://w3id.org/ro/terms/workflow-run#sha256",
    "bundleFormat": "urn:flops-fit:bundle-format",
}
# What the standard library raises for a ZIP file with other bytes than were written
UNSOUND = (
    *(zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError),
    *(ValueError, EOFError, OverflowError),
)


@dataclass(frozen=True)
class Bundle:
    """What a bundle holds.

    ``name`` is that of the sweep, ``dated`` the day of the fit, ``license`` the terms of use as its
    author stated them (empty: not stated); ``files`` are the members by their names in the ZIP,
    without the metadata.
    """

    name: str
    dated: str
    license: str
    files: Mapping[str, bytes]

    @property
    def table(self) -> str:
        """The member that is the table of runs."""
        return next(name for name in self.files if name == TABLE or GIVEN_TABLE.fullmatch(name))

    @property
    def runs(self) -> dict[str, bytes]:
        """The records and notes of failure, by their paths below the folder of results."""
        return {name: content for name, content in self.files.items() if RUN.fullmatch(name)}


def write_bundle(bundle: Bundle, path: str | Path) -> None:
    """Write ``bundle`` to the ZIP ``path``; the same content gives the same bytes."""
    metadata = json.dumps(_crate(bundle), indent=1, ensure_ascii=False) + "\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {METADATA: metadata.encode(), **bundle.files}.items():
            member = zipfile.ZipInfo(name)  # of 1980
            member.external_attr, member.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(member, content)
    write_atomic(path, buffer.getvalue())


def read_bundle(path: str | Path) -> Bundle:
    """Read the ZIP ``path`` and check it member by member.

    Raises `FlopsFitError` that names the member for a name that no bundle has, for content that does
    not have its checksum, for a member that is missing or not listed, and for a newer format.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_names(path, [member.filename for member in members])
            size = sum(member.file_size for member in members)
            if size > MOST_BYTES:
                raise FlopsFitError(f"{path}: {size} bytes unpacked; allowed: {MOST_BYTES}")
            files = {member.filename: archive.read(member) for member in members}
    except OSError as error:
        raise FlopsFitError(f"{path}: cannot be read ({error.strerror})") from None
    except UNSOUND as error:
        raise FlopsFitError(f"{path}: not a sound ZIP file ({error})") from None
    if METADATA not in files:
        raise FlopsFitError(f"{path}: {METADATA}: missing; allowed: what flops-fit export writes")
    try:
        graph = {part["@id"]: part for part in json.loads(files.pop(METADATA))["@graph"]}
        root = graph["./"]
        version, name = root["bundleFormat"], root["name"]
        listed = {part["@id"]: graph[part["@id"]]["sha256"] for part in root["hasPart"]}
        bundle = Bundle(name, root["datePublished"], root["license"], files)
    except (ValueError, LookupError, TypeError, RecursionError):
        raise FlopsFitError(f"{path}: {METADATA}: not as flops-fit export writes it") from None
    if not isinstance(version, int) or version > FORMAT:
        raise FlopsFitError(
            f"{path}: format {version!r} was written by a newer version of flops-fit; allowed: up to "
            f"{FORMAT}; upgrade flops-fit"
        )
    if not isinstance(name, str) or not SWEEP.fullmatch(name) or name.lower() in RESERVED:
        raise FlopsFitError(f"{path}: {name!r} is no name of a sweep")
    _check_contents(path, listed, files)
    return bundle


def _check_names(path: str | Path, names: list[str]) -> None:
    for name in names:
        known = name in (METADATA, CARD, PLAN, CONFIG, FIT, TABLE, RECORDS, *TEXTS)
        if not (known or RUN.fullmatch(name) or GIVEN_TABLE.fullmatch(name)):
            raise FlopsFitError(f"{path}: {name!r} is no file of a bundle; nothing was imported")
        if names.count(name) > 1:
            raise FlopsFitError(f"{path}: {name} is in it more than once; nothing was imported")


def _check_contents(
    path: str | Path, listed: Mapping[str, str], files: Mapping[str, bytes]
) -> None:
    for name in sorted({*listed, *files, FIT}):
        if name not in files:
            raise FlopsFitError(f"{path}: {name}: missing; nothing was imported")
        if name not in listed:
            raise FlopsFitError(f"{path}: {name}: not listed in {METADATA}; nothing was imported")
        if hashlib.sha256(files[name]).hexdigest() != listed[name]:
            raise FlopsFitError(f"{path}: {name}: does not have its checksum; nothing was imported")
    tables = [name for name in files if name == TABLE or GIVEN_TABLE.fullmatch(name)]
    if len(tables) != 1 or (PLAN in files and not {TABLE, RECORDS} <= files.keys()):
        raise FlopsFitError(f"{path}: no table of its runs; nothing was imported")


def _crate(bundle: Bundle) -> dict[str, Any]:
    """The metadata by RO-Crate 1.1."""
    return {
        "@context": [CONTEXT, TERMS],
        "@graph": [
            {
                "@id": METADATA,
                "@type": "CreativeWork",
                "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
                "about": {"@id": "./"},
            },
            {
                "@id": "./",
                "@type": "Dataset",
                "name": bundle.name,
                "description": f"Runs, fitted scaling law and report of the sweep {bundle.name}.",
                "datePublished": bundle.dated,
                "license": bundle.license or "not stated",
                "bundleFormat": FORMAT,
                "hasPart": [{"@id": name} for name in bundle.files],
            },
            *(_file(name, content) for name, content in bundle.files.items()),
            {
                "@id": "#flops-fit",
                "@type": "SoftwareApplication",
                "name": "flops-fit",
                "softwareVersion": __version__,
            },
            {
                "@id": "#export",
                "@type": "CreateAction",
                "instrument": {"@id": "#flops-fit"},
                "result": {"@id": "./"},
            },
        ],
    }


def _file(name: str, content: bytes) -> dict[str, Any]:
    return {
        "@id": name,
        "@type": "File",
        "name": name,
        "encodingFormat": TYPES.get(Path(name).suffix, "application/octet-stream"),
        "contentSize": str(len(content)),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
