"""The run store: what is listed, what may be removed, and what is let in from elsewhere."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from planned_job import Job
from waiting import PATIENCE

from flops_fit.cli.main import main
from flops_fit.experiment.recipe import read_recipe
from flops_fit.files import canonical_hash, read_json, write_json
from flops_fit.store import runs as store
from flops_fit.store.locks import run_lock
from flops_fit.store.records import note_failure, seal


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The results folder of a real run, with its plan where the workflow keeps a sweep's."""
    with pytest.MonkeyPatch.context() as patch:
        job = Job(tmp_path_factory.mktemp("trained"), patch)
        assert job() == 0
    results = job.folder.parents[1]
    (plan,) = (results / ".plan" / "plans").iterdir()
    for kept in ("sweeps/mine.json", "checks/" + Path(read_json(plan)["check"]).name):
        write_json(results / ".plan" / kept, read_json(plan))
    return results


@pytest.fixture
def results(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "results"))


@pytest.fixture
def own(results) -> Path:
    """The folder of the run that the sweep uses."""
    (folder,) = (results / "runs").iterdir()
    return folder


def variant(own: Path, seed: int, **changes) -> dict:
    """The record of the same experiment with another seed, as its trainer would have left it."""
    record = read_json(own / "record.json")
    record["identity"]["seed"] = seed
    identity = record["identity"]
    record |= {
        "experiment_id": read_recipe(identity).experiment_id,
        "hash": canonical_hash(identity),
        **changes,
    }
    return seal({key: value for key, value in record.items() if key != "checksum"})


def put(runs: Path, record: dict) -> Path:
    folder = runs / record["experiment_id"]
    write_json(folder / "record.json", record)
    return folder


def runs(*arguments: object) -> int:
    return main(["runs", *map(str, arguments)])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def listed(results: Path, capsys) -> dict[str, dict]:
    assert runs("list", "--results", results, "--json") == 0
    return {run["experiment_id"]: run for run in json.loads(capsys.readouterr().out)["runs"]}


def test_the_list_tells_status_size_and_users_of_each_run(results, own, capsys):
    other = put(own.parent, variant(own, 1, status="diverged"))
    for name in ("failed", "stopped", "at-work", "broken"):
        (own.parent / name).mkdir()
    note_failure(own.parent / "failed", "failed", "hash", "no memory")
    (own.parent / "stopped" / "checkpoints").mkdir()
    (own.parent / "stopped" / "checkpoints" / "model.bin").write_bytes(bytes(5000))
    (own.parent / "broken" / "record.json").write_text("{")
    os.utime(other / "record.json", (1e9, 1e9))
    before = contents(results)
    with run_lock(own.parent / "at-work"):
        found = listed(results, capsys)
    assert {name: run["status"] for name, run in found.items()} == {
        own.name: "completed",
        other.name: "diverged",
        "failed": "failed",
        "stopped": "unfinished",
        "at-work": "running",
        "broken": "corrupt",
    }
    assert {name for name, run in found.items() if run["sweeps"] == ["mine"]} == {own.name}
    assert found["stopped"]["bytes"] == 5000
    assert found[own.name]["bytes"] == sum(p.stat().st_size for p in own.iterdir())
    assert found[other.name]["age_seconds"] > 1e8 > 1e4 > found[own.name]["age_seconds"]
    assert {**contents(results), "runs/at-work/.lock": b""} == before | {"runs/at-work/.lock": b""}
    assert runs("list", "--results", results) == 0
    said = capsys.readouterr().out
    assert f"{own.name}  completed " in said
    assert "6 runs (" in said
    assert "; 5 used by no sweep" in said


def test_a_checkpoint_that_its_trainer_removes_meanwhile_does_not_count(tmp_path, monkeypatch):
    def scandir(folder):
        if str(folder) == str(removed):
            removed.rmdir()
        return listed_by_system(folder)

    removed = tmp_path / "checkpoints" / "step-1"
    removed.mkdir(parents=True)
    (tmp_path / "train.log").write_text("12345")
    listed_by_system = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    assert store.size_of(tmp_path) == 5


def test_an_empty_store_is_no_error(tmp_path, capsys):
    assert runs("list", "--results", tmp_path) == 0
    assert capsys.readouterr().out == "0 runs, 0 B; 0 used by no sweep\n"


def test_prune_removes_what_no_sweep_uses_and_nothing_else(results, own, capsys):
    kept = contents(results)
    other = put(own.parent, variant(own, 1))
    (other / "checkpoints").mkdir()
    (other / ".lock").touch()
    plan = results / ".plan"
    for name in (
        "specs/gone.json",
        "plans/0123456789abcdef.json",
        "checks/0.json",
        "checked/0.json",
    ):
        write_json(plan / name, {})
    for name, made in (("text-0", True), ("mine", False)):
        (results / "data" / name).mkdir(parents=True)
        (results / "data" / name / ("manifest.json" if made else "notes.txt")).write_text("{}")
    (own.parent / "busy").mkdir()
    with run_lock(own.parent / "busy"):
        assert runs("prune", "--results", results, "--yes") == 0
    said = capsys.readouterr().out
    assert "used by no sweep: 1 runs (" in said
    assert "1 data (2 B), 4 files of plans (12 B)" in said
    assert str(other) in said
    assert contents(results) == {**kept, "data/mine/notes.txt": b"{}", "runs/busy/.lock": b""}
    assert not other.exists()
    assert not (results / "data" / "text-0").exists()


def test_prune_finds_nothing_to_do_where_all_is_used(results, capsys):
    assert runs("prune", "--results", results) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_data_that_a_sweep_uses_stay(results, own):
    sweep = results / ".plan" / "sweeps" / "mine.json"
    write_json(sweep, {**read_json(sweep), "data_dir": "results/data/text-0"})
    for name in ("text-0", "text-1"):
        write_json(results / "data" / name / "manifest.json", {})
    assert runs("prune", "--results", results, "--yes") == 0
    assert [path.name for path in (results / "data").iterdir()] == ["text-0"]


def test_without_a_terminal_and_without_yes_nothing_is_removed(results, own, capsys, monkeypatch):
    other = put(own.parent, variant(own, 1))
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115
    before = contents(results)
    assert runs("prune", "--results", results) == 2
    said = capsys.readouterr()
    assert str(other) in said.out
    assert "this needs a terminal to ask, or --yes" in said.err
    assert contents(results) == before


@pytest.mark.parametrize(("answer", "removed"), [("\n", False), ("n\n", False), ("y\n", True)])
def test_on_a_terminal_it_asks(results, own, answer, removed):
    other = put(own.parent, variant(own, 1))
    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "flops_fit", "runs", "prune", "--results", str(results)]
    with subprocess.Popen(line, stdin=theirs, stdout=subprocess.PIPE, text=True) as process:
        os.write(ours, answer.encode())
        said, _ = process.communicate(timeout=PATIENCE)
    os.close(ours)
    os.close(theirs)
    assert "Remove them? [y/N]" in said
    assert other.exists() != removed


def test_without_any_sweep_or_beside_a_workflow_prune_refuses(results, own, capsys):
    put(own.parent, variant(own, 1))
    before = contents(results)
    lock = results.parent / ".snakemake" / "locks" / "0.input.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    assert runs("prune", "--results", results, "--yes") == 2
    assert "a workflow is at work here, or was killed" in capsys.readouterr().err
    lock.unlink()
    (results / ".plan" / "sweeps" / "mine.json").rename(results.parent / "mine.json")
    assert runs("prune", "--results", results, "--yes") == 2
    assert "no sweep, so every run would go" in capsys.readouterr().err
    (results.parent / "mine.json").rename(results / ".plan" / "sweeps" / "mine.json")
    assert contents(results) == before


def test_compiled_graphs_go_since_they_are_made_again(results, own):
    graph = results / ".compiled" / "x86_64-12345678" / "fxgraph" / "a"
    graph.parent.mkdir(parents=True)
    graph.touch()
    assert runs("prune", "--results", results, "--yes") == 0
    assert not list((results / ".compiled").iterdir())
    assert (own / "record.json").exists()


def test_a_run_that_is_taken_while_prune_asks_stays(results, own):
    other = put(own.parent, variant(own, 1))
    assert store.unused(results)["runs"] == [other]
    with run_lock(other):
        assert not store.remove(other)
    assert (other / "record.json").exists()


def test_a_killed_prune_leaves_no_half_run_and_the_next_finishes_it(results, own, monkeypatch):
    other = put(own.parent, variant(own, 1))
    real = shutil.rmtree

    def killed(path):
        (path / "record.json").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        runs("prune", "--results", results, "--yes")
    assert [run.experiment_id for run in store.stored_runs(results)] == [own.name]
    put(own.parent, variant(own, 1))  # trained again, and again out of use
    monkeypatch.setattr(shutil, "rmtree", real)
    assert runs("prune", "--results", results, "--yes") == 0
    assert [path.name for path in own.parent.iterdir()] == [own.name]
    assert not other.exists()


@pytest.mark.parametrize("source", ["", "runs", "runs/ID"])
def test_records_are_imported_once_and_bit_for_bit(results, own, tmp_path, capsys, source):
    target = tmp_path / "elsewhere" / "results"
    source = results / source.replace("ID", own.name)
    assert runs("import", source, "--results", target) == 0
    assert capsys.readouterr().out == "1 imported, 0 already here, 0 refused\n"
    name = f"runs/{own.name}/record.json"
    assert contents(target) == {name: (own / "record.json").read_bytes()}
    assert runs("import", source, "--results", target) == 0
    assert capsys.readouterr().out == "0 imported, 1 already here, 0 refused\n"


def edited(record: dict, **changes) -> bytes:
    return json.dumps({**record, **changes}).encode()


def resealed(record: dict, **changes) -> bytes:
    record = {**record, **changes}
    return json.dumps(seal({k: v for k, v in record.items() if k != "checksum"})).encode()


def moved(record: dict) -> bytes:
    """A record of an identity whose size is a path out of the store."""
    identity = json.loads(json.dumps(record["identity"]))
    identity["model"]["size"] = "/../../../8"
    return resealed(
        record,
        identity=identity,
        hash=canonical_hash(identity),
        experiment_id=read_recipe(identity).experiment_id,
    )


REFUSED = {
    "nothing": (lambda r: b"", "not a record"),
    "a list": (lambda r: b"[1]", "not a record"),
    "a pickle": (lambda r: b"\x80\x04}\x94.", "not a record"),
    "nested too deep": (lambda r: b"[" * 100000, "not a record"),
    "half of it": (lambda r: json.dumps(r).encode()[:900], "not a record"),
    "another loss": (lambda r: edited(r, final_loss=0.1), "checksum does not match"),
    "no checksum": (
        lambda r: edited({k: v for k, v in r.items() if k != "checksum"}),
        "not a whole",
    ),
    "another hash": (lambda r: resealed(r, hash="0" * 64), "hash is not that of"),
    "another id": (lambda r: resealed(r, experiment_id="mine"), "it belongs to 'mine'"),
    "another identity": (
        lambda r: resealed(r, identity={**r["identity"], "learning_rate": 0.5}),
        "it belongs to",
    ),
    "an id that is a path": (
        lambda r: resealed(r, experiment_id="../../elsewhere"),
        "it belongs to '../../elsewhere'",
    ),
    "a status of its own": (
        lambda r: resealed(r, status="failed"),
        "status: 'failed'; expected completed or diverged",
    ),
    "fewer tokens": (lambda r: resealed(r, tokens_seen=1), "trained on 1 tokens, planned"),
    "no loss": (lambda r: resealed(r, final_loss=None), "final_loss: None; expected a number"),
    "a loss that is none": (
        lambda r: json.dumps({**r, "final_loss": float("nan")}).encode(),
        "not a whole JSON record",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_verify_is_refused_and_the_rest_comes_in(
    results, own, tmp_path, capsys, case
):
    spoil, reason = REFUSED[case]
    bad = own.parent / "bad" / "record.json"
    bad.parent.mkdir()
    bad.write_bytes(spoil(read_json(own / "record.json")))
    target = tmp_path / "target"
    before = contents(tmp_path)
    assert runs("import", results, "--results", target) == 2
    said = capsys.readouterr().err
    assert f"flops-fit: {bad}: refused: " in said
    assert reason in said
    assert said.endswith("flops-fit: error: 1 imported, 0 already here, 1 refused\n")
    assert contents(tmp_path) == {
        **before,
        f"target/runs/{own.name}/record.json": (own / "record.json").read_bytes(),
    }


def test_no_size_leads_out_of_the_store(results, own, tmp_path):
    theirs = tmp_path / "theirs" / "runs" / "one"
    theirs.mkdir(parents=True)
    (theirs / "record.json").write_bytes(moved(read_json(own / "record.json")))
    assert runs("import", tmp_path / "theirs", "--results", tmp_path / "target") == 0
    (folder,) = (tmp_path / "target/runs").iterdir()
    assert (folder / "record.json").exists()
    assert ".._8-" in folder.name


def test_a_sound_record_that_is_here_stays_and_the_difference_is_told(
    results, own, tmp_path, capsys
):
    theirs = put(
        tmp_path / "theirs",
        variant(own, read_json(own / "record.json")["identity"]["seed"], final_loss=0.125),
    )
    before = contents(results)
    assert runs("import", tmp_path / "theirs", "--results", results) == 0
    said = capsys.readouterr().out
    assert f"{theirs.name}: stays with loss" in said
    assert "the other has 0.125\n0 imported, 1 already here" in said
    assert contents(results) == before


def test_a_corrupt_record_that_is_here_is_moved_aside(results, own, tmp_path, capsys):
    whole = (own / "record.json").read_bytes()
    shutil.copytree(results, tmp_path / "theirs")
    (own / "record.json").write_text("{")
    assert runs("import", tmp_path / "theirs", "--results", results) == 0
    assert "not a whole JSON record; moved to record.json.corrupt" in capsys.readouterr().err
    assert (own / "record.json").read_bytes() == whole
    assert (own / "record.json.corrupt").read_text() == "{"
    assert not (own / "result.json").exists()  # to be made from the record


def test_a_run_that_is_being_trained_here_is_not_imported(results, own, tmp_path, capsys):
    target = tmp_path / "target"
    with run_lock(target / "runs" / own.name):
        assert runs("import", results, "--results", target) == 2
    assert "refused: a trainer is at work on this experiment here" in capsys.readouterr().err
    assert [p.name for p in (target / "runs" / own.name).iterdir()] == [".lock"]


def test_a_source_without_records_is_named_before_anything_is_imported(results, tmp_path, capsys):
    target = tmp_path / "target"
    assert runs("import", results, tmp_path / "none", "--results", target) == 2
    assert (
        f"{tmp_path / 'none'}: no record.json; allowed: a results folder" in capsys.readouterr().err
    )
    assert not target.exists()


def test_a_store_that_cannot_be_written_is_named(results, tmp_path, capsys):
    (tmp_path / "target").write_text("a file in the way")
    assert runs("import", results, "--results", tmp_path / "target") == 2
    assert "cannot be written (Not a directory); 0 imported" in capsys.readouterr().err
