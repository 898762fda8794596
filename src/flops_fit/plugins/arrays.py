"""Hash tensors, arrays and tables by all their bytes, without importing any library for it."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.parts import Part

BY_FILE = 2**28  # bytes; a larger read-only memory map is identified by the cached hash of its file
ROWS = 10_000  # rows of a table that are read at once


def array_part(value: Any, hashes: FileHashes) -> Part | None:
    """Describe a tensor, array or table by its type, its shape and all its bytes.

    Returns None where ``value`` is none of these. ``hashes`` caches the hashes of files: a large
    memory map is identified by the hash of the file behind it.
    """
    for name, describe in DESCRIPTIONS.items():
        module = sys.modules.get(name)
        part = describe(module, value, hashes) if module is not None else None
        if part is not None:
            return part
    return None


def _tensor(torch: Any, value: Any, hashes: FileHashes) -> Part | None:
    if not isinstance(value, torch.Tensor):
        return None
    label = f"{type(value).__name__} {value.dtype} {tuple(value.shape)}"
    if value.device.type == "meta":
        return Part(f"{label} meta")
    value = value.detach()
    if value.layout == torch.sparse_coo:
        value = value.coalesce()
        return Part(label, [("", value.indices()), ("", value.values())])
    if value.layout != torch.strided:
        names = (
            ("crow_indices", "col_indices")
            if value.layout == torch.sparse_csr
            else ("ccol_indices", "row_indices")
        )
        return Part(label, [("", getattr(value, name)()) for name in (*names, "values")])
    if value.is_quantized:
        return Part(f"{label} {value!r}", [("", value.int_repr())])

    def chunks() -> Iterable[Any]:
        whole = value.resolve_conj().resolve_neg().cpu().contiguous().view(-1)
        yield whole.view(torch.uint8).numpy()

    return Part(label, size=value.numel() * value.element_size(), chunks=chunks)


def _array(numpy: Any, value: Any, hashes: FileHashes) -> Part | None:
    if isinstance(value, numpy.generic):
        value = numpy.asarray(value)
        return Part(f"scalar {value.dtype.descr}".encode() + value.tobytes())
    if not isinstance(value, numpy.ndarray):
        return None
    label = f"array {value.dtype.descr} {value.shape}"
    if value.dtype.hasobject:
        return Part(label, [("", value.tolist())])
    file = _mapped_file(numpy, value)
    if file is not None:
        return Part(
            label, size=value.nbytes, chunks=lambda: [f"{file[1]} {hashes.of(file[0])}".encode()]
        )

    def chunks() -> Iterable[Any]:
        yield numpy.ascontiguousarray(value).reshape(-1).view(numpy.uint8)

    return Part(label, size=value.nbytes, chunks=chunks)


def _mapped_file(numpy: Any, value: Any) -> tuple[Path, str] | None:
    """Return the file behind a large read-only memory map, and which part of it ``value`` covers."""
    root = value
    while isinstance(root.base, numpy.ndarray):
        root = root.base
    filename = getattr(root, "filename", None)
    if value.nbytes < BY_FILE or filename is None or root.mode != "r":
        return None
    start = value.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    return Path(filename), f"{root.offset + start} {value.strides}"


def _table(pyarrow: Any, value: Any, hashes: FileHashes) -> Part | None:
    if not isinstance(value, pyarrow.Table):
        return None
    # without the metadata, which may be random
    fields = [(field.name, str(field.type)) for field in value.schema]

    def chunks() -> Iterable[Any]:
        for start in range(0, value.num_rows, ROWS):  # the result does not depend on the chunking
            for batch in value.slice(start, ROWS).combine_chunks().to_batches():
                yield batch.serialize()

    return Part(f"table {fields}", size=value.nbytes, chunks=chunks)


def _hugging_face(datasets: Any, value: Any, hashes: FileHashes) -> Part | None:
    """Describe a Hugging Face dataset by its data, because its ``_fingerprint`` is random."""
    if not isinstance(value, datasets.Dataset):
        return None
    indices = value._indices
    names = ("_format_type", "_format_kwargs", "_format_columns", "_output_all_columns")
    return Part(
        f"{type(value).__name__} {value.features}",
        [
            ("", value.data.table),
            ("", None if indices is None else indices.table),
            *((f".{name}", getattr(value, name)) for name in names),
        ],
    )


DESCRIPTIONS = {"torch": _tensor, "numpy": _array, "pyarrow": _table, "datasets": _hugging_face}
