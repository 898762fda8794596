"""Turn any text into token files with any tokenizer; `text.windows` reads these files.

This is done once, before training; neither the sources nor a network are needed afterwards. Only
one batch of documents is held in memory.
"""

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flops_fit.errors import FlopsFitError
from flops_fit.examples.documents import EXTRA, check_commit, hub_documents, read_documents
from flops_fit.files import write_json

BATCH = 1000  # documents that are tokenized together, by all threads
PARTS = ("train", "heldout")
HUB_KEYS = {"name", "revision", "config", "split", "heldout_split"}


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer: ``encode`` turns each text into an array of tokens, all below ``vocab_size``."""

    name: str
    vocab_size: int
    encode: Callable[[list[str]], list[np.ndarray]]
    end: int | None = None  # the token after each document; None: its text ends with a line end


def prepare(
    directory: str | Path,
    sources: Sequence[str] = (),
    *,
    tokenizer: str | Mapping = "bytes",
    end_of_document: str | None = None,
    vocab_size: int | None = None,
    hub: Mapping | None = None,
    field: str = "text",
    document_size: int | None = 10_000,
    heldout: Sequence[str] = (),
    heldout_every: int = 12,
) -> dict:
    """Write ``train.bin``, ``heldout.bin`` and, last, ``meta.json`` to ``directory``.

    Documents come from ``sources`` (see `documents.read_documents`, which also explains ``field``
    and ``document_size``) or from ``hub``, a dataset of the Hugging Face hub:
    ``{name, revision, config, split, heldout_split}``, where the last three are optional.

    ``tokenizer`` is one of

    - ``"bytes"``: UTF-8 bytes, 256 tokens;
    - the path of a ``tokenizer.json`` of the package ``tokenizers``;
    - ``{hub: NAME, revision: COMMIT}``: the ``tokenizer.json`` of a model on the hub;
    - ``{bpe: 4096}``: a byte-level BPE with this number of tokens, which is trained on the training
      documents and saved as ``tokenizer.json`` next to the token files.

    Each document is followed by the token ``end_of_document``, or by a line end where that is None.
    ``vocab_size`` is the vocabulary of the model. A tokenizer that needs more is refused here;
    otherwise a rare token would end a run.

    A document is held out where its text hashes to 0 modulo ``heldout_every``: the same text is
    never in both parts, and new documents do not move old ones. Where ``heldout`` names sources, or
    ``hub`` a ``heldout_split``, those are held out and everything else is trained on.

    Returns the content of meta.json: ``dtype`` (the smallest of uint8, uint16 and uint32 for the
    vocabulary), ``vocab_size``, ``tokenizer``, ``sources``, ``bytes_per_token`` (of the held-out
    text, for its loss in bits per byte), and for ``train`` and ``heldout`` each ``tokens``,
    ``bytes``, ``documents`` and ``distinct_tokens``.

    Raises FlopsFitError for sources that `read_documents` refuses, for a tokenizer that is not
    available or lacks the token ``end_of_document``, and where one of the parts has no document.
    """
    sources, heldout = ([s] if isinstance(s, str) else list(s) for s in (sources, heldout))
    if heldout_every < 2:
        raise FlopsFitError(f"heldout_every = {heldout_every}: allowed: 2 or more")
    if document_size is not None and document_size < 1:
        raise FlopsFitError(f"document_size = {document_size}: allowed: 1 or more, or null")
    _check_origin(sources, heldout, hub)

    def documents() -> Iterator[tuple[str, str]]:
        options = {"field": field} if hub else {"field": field, "document_size": document_size}
        return _split(*_texts(sources, heldout, hub, options), heldout_every)

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "meta.json").unlink(missing_ok=True)  # written again when the token files are
    encoder = _tokenizer(tokenizer, end_of_document, documents, directory)
    if vocab_size is not None and encoder.vocab_size > vocab_size:
        raise FlopsFitError(
            f"vocab_size = {vocab_size}: the tokenizer ({encoder.name}) needs {encoder.vocab_size}"
        )
    dtype = next(
        t for t in ("uint8", "uint16", "uint32") if encoder.vocab_size - 1 <= np.iinfo(t).max
    )
    counts = _write(documents(), encoder, dtype, directory)
    for part in PARTS:
        if not counts[part]["documents"]:
            raise FlopsFitError(
                f"sources = {sources or hub}: {sum(c['documents'] for c in counts.values())} "
                f"documents, and none of them for {part}; lower heldout_every or document_size, or "
                "name what is held out"
            )
    meta = {
        "dtype": dtype,
        "vocab_size": encoder.vocab_size,
        "tokenizer": encoder.name,
        "sources": sources or [f"{hub['name']}@{hub['revision']}"],
        "bytes_per_token": counts["heldout"]["bytes"] / counts["heldout"]["tokens"],
        **counts,
    }
    write_json(directory / "meta.json", meta)
    return meta


def _check_origin(sources: list[str], heldout: list[str], hub: Mapping | None) -> None:
    if bool(sources) == bool(hub) or (hub and heldout):
        raise FlopsFitError(
            f"sources = {sources}, heldout = {heldout}, hub = {hub}: allowed: sources (with or "
            "without heldout), or hub"
        )
    if hub:
        unknown = set(hub) - HUB_KEYS
        if unknown or not {"name", "revision"} <= set(hub):
            raise FlopsFitError(
                f"hub = {dict(hub)}: allowed: name, revision and, if wanted, config, split, "
                "heldout_split"
            )
        check_commit(hub["name"], hub["revision"])


def _texts(
    sources: list[str], heldout: list[str], hub: Mapping | None, options: dict
) -> tuple[Iterator[str], Iterator[str] | None]:
    """Return the texts to train on, and the texts to hold out where they are named."""
    if hub:
        options |= {key: hub[key] for key in ("name", "revision", "config") if key in hub}
        own = hub.get("heldout_split")
        train = hub_documents(**options, split=hub.get("split", "train"))
        return train, hub_documents(**options, split=own) if own else None

    def read(names: list[str]) -> Iterator[str]:
        return itertools.chain.from_iterable(read_documents(name, **options) for name in names)

    return read(sources), read(heldout) if heldout else None


def _split(
    texts: Iterator[str], heldout: Iterator[str] | None, every: int
) -> Iterator[tuple[str, str]]:
    """Yield each text with its part, as (part, text)."""
    for text in texts:
        held = heldout is None and int(hashlib.sha256(text.encode()).hexdigest(), 16) % every == 0
        yield PARTS[held], text
    for text in heldout or ():
        yield "heldout", text


def _write(
    documents: Iterator[tuple[str, str]], tokenizer: Tokenizer, dtype: str, directory: Path
) -> dict[str, dict]:
    """Append the tokens of each document to the file of its part; return the counts of each part."""
    counts = {part: {"tokens": 0, "bytes": 0, "documents": 0} for part in PARTS}
    seen = {part: np.zeros(tokenizer.vocab_size, bool) for part in PARTS}
    end = [] if tokenizer.end is None else [tokenizer.end]
    with contextlib.ExitStack() as stack:
        files = {p: stack.enter_context(open(directory / f"{p}.bin", "wb")) for p in PARTS}
        while batch := list(itertools.islice(documents, BATCH)):
            parts, texts = zip(*batch, strict=True)
            if tokenizer.end is None:
                texts = [text if text.endswith("\n") else text + "\n" for text in texts]
            encoded = tokenizer.encode(list(texts))
            for part, text, tokens in zip(parts, texts, encoded, strict=True):
                tokens = np.append(tokens, end).astype(dtype)
                files[part].write(tokens.data)
                seen[part][tokens] = True
                counts[part]["tokens"] += len(tokens)
                counts[part]["bytes"] += len(text.encode())
                counts[part]["documents"] += 1
    return {part: {**counts[part], "distinct_tokens": int(seen[part].sum())} for part in PARTS}


# -- Tokenizers -----------------------------------------------------------------------------------


def _tokenizer(wanted: str | Mapping, end: str | None, documents, directory: Path) -> Tokenizer:
    if wanted == "bytes":
        if end is not None:
            raise FlopsFitError(
                f"end_of_document = {end!r}: bytes have no such token; allowed: null"
            )
        return Tokenizer("bytes", 256, _bytes)
    try:
        import tokenizers
    except ImportError as error:
        raise FlopsFitError(f"tokenizer = {wanted}: {error}; {EXTRA}") from None
    if isinstance(wanted, Mapping) and set(wanted) == {"bpe"}:
        train = (text for part, text in documents() if part == "train")
        made = _train_bpe(wanted["bpe"], end, train)
        made.save(str(directory / "tokenizer.json"))
        name = f"byte-level BPE of {wanted['bpe']} tokens, trained on the training documents"
    else:
        name, path = _tokenizer_file(wanted)
        try:
            made = tokenizers.Tokenizer.from_file(path)
        except Exception as error:  # the package raises no more specific class
            raise FlopsFitError(f"tokenizer = {name}: {error}") from None
    made.no_truncation()  # the tokenizer.json of a model may truncate or pad texts
    made.no_padding()
    number = None if end is None else made.token_to_id(end)
    if end is not None and number is None:
        raise FlopsFitError(f"end_of_document = {end!r}: the tokenizer has no such token")

    def encode(texts: list[str]) -> list[np.ndarray]:
        return [
            np.array(e.ids, np.int64) for e in made.encode_batch(texts, add_special_tokens=False)
        ]

    largest = max(made.get_vocab().values())  # token numbers may have gaps
    return Tokenizer(name, largest + 1, encode, number)


def _bytes(texts: list[str]) -> list[np.ndarray]:
    return [np.frombuffer(text.encode(), np.uint8) for text in texts]


def _train_bpe(size: int, end: str | None, texts: Iterator[str]):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if not isinstance(size, int) or size <= 256:
        raise FlopsFitError(f"tokenizer.bpe = {size}: allowed: more than 256, the single bytes")
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        show_progress=False,
        special_tokens=[] if end is None else [end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator(texts, trainer)
    return made


def _tokenizer_file(wanted: str | Mapping) -> tuple[str, str]:
    """Return a name for the record, and the path of a file on this machine."""
    if isinstance(wanted, str):
        if not Path(wanted).is_file():
            raise FlopsFitError(
                f"tokenizer = {wanted}: no such file; allowed: bytes, the path of a tokenizer.json, "
                "{bpe: SIZE}, or {hub: NAME, revision: COMMIT}"
            )
        return Path(wanted).name, wanted
    if set(wanted) != {"hub", "revision"}:
        raise FlopsFitError(
            f"tokenizer = {dict(wanted)}: allowed: {{bpe: SIZE}} or {{hub: NAME, revision: COMMIT}}"
        )
    check_commit(wanted["hub"], wanted["revision"])
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(wanted["hub"], "tokenizer.json", revision=wanted["revision"])
    except Exception as error:  # the network, the hub and the cache raise different classes
        raise FlopsFitError(f"tokenizer = {wanted['hub']}: not to be had: {error}") from error
    return f"{wanted['hub']}@{wanted['revision']}", path
