"""Tensors, arrays and tables by all their bytes; nothing is imported that is not loaded already."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.parts import Part

BY_FILE = 2**28  # bytes from which a read-only memory map is known by its file's remembered hash
ROWS = 10_000  # of a table, read at once


def array_part(value: Any, hashes: FileHashes) -> Part | None:
    """``value`` by all its bytes, type and shape; None where it is no tensor, array or table."""
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
        ways = (
            ("crow_indices", "col_indices")
            if value.layout == torch.sparse_csr
            else ("ccol_indices", "row_indices")
        )
        return Part(label, [("", getattr(value, way)()) for way in (*ways, "values")])
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
    """The file behind a large read-only memory map, and which part of it ``value`` shows."""
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
    fields = [(field.name, str(field.type)) for field in value.schema]  # no metadata: may be random

    def chunks() -> Iterable[Any]:
        for start in range(0, value.num_rows, ROWS):  # the same, however the table is chunked
            for batch in value.slice(start, ROWS).combine_chunks().to_batches():
                yield batch.serialize()

    return Part(f"table {fields}", size=value.nbytes, chunks=chunks)


def _hugging_face(datasets: Any, value: Any, hashes: FileHashes) -> Part | None:
    """A Hugging Face data set; its ``_fingerprint`` is random, so its data are read."""
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
