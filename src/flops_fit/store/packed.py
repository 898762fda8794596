"""Prepared data as one file, in which they travel to machines that share no files."""

import os
import tempfile
import zipfile
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import DATA_MANIFEST

ENDING = ".zip"  # of the file, beside the folder of the data


def pack_data(folder: str | Path, packed: str | Path) -> None:
    """Write all files of the ``folder`` of prepared data into the file ``packed``, whole or not at all.

    They are not compressed, because prepared data hardly shrink.
    """
    packed = Path(packed)
    packed.parent.mkdir(parents=True, exist_ok=True)
    files = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    descriptor, temporary = tempfile.mkstemp(dir=packed.parent, prefix=f".{packed.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            for path in files:
                archive.write(path, path.relative_to(folder))
        os.replace(temporary, packed)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def unpack_data(folder: str | Path | None) -> None:
    """Make the ``folder`` of prepared data from the file beside it, if they came here as one.

    Nothing happens where the data are there, or where nothing is prepared (None). The manifest, by
    which the files are verified, is moved into place last. Raises `FlopsFitError` for a damaged file.
    """
    if folder is None or Path(folder, DATA_MANIFEST).exists():
        return
    folder, packed = Path(folder), Path(f"{folder}{ENDING}")
    if not packed.exists():
        return
    try:
        with (
            tempfile.TemporaryDirectory(dir=folder.parent, prefix=".prepare-") as temporary,
            zipfile.ZipFile(packed) as archive,
        ):
            archive.extractall(temporary)
            made = [path for path in sorted(Path(temporary).rglob("*")) if path.is_file()]
            for path in sorted(made, key=lambda path: path.name == DATA_MANIFEST):
                target = folder / path.relative_to(temporary)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
    except (OSError, zipfile.BadZipFile) as error:
        raise FlopsFitError(
            f"{packed}: cannot be unpacked ({error}); delete it from the store and run again"
        ) from None
