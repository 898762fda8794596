"""A sweep as one file: the way to another machine and back, and what is refused on it.

The plan is a real one of the planner; the losses of its runs are those of a known law, sealed in
records as a trainer leaves them.
"""

import hashlib
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from planned_job import MODULE, config_of
from simulated import LAWS, loss_of

from flops_fit.bundle.archive import METADATA, read_bundle
from flops_fit.cli.main import main
from flops_fit.config.complete import complete_config
from flops_fit.config.load import load_config
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import run_folder, spec_file
from flops_fit.experiment.spec import read_spec
from flops_fit.files import read_json, write_json
from flops_fit.plan.planner import make_plan
from flops_fit.store.plan_file import keep_plan, read_plan
from flops_fit.store.records import finish_run, seal
from flops_fit.training.record import Record

BUDGETS = {1e6: [4, 8, 16, 32, 64], 1e7: [8, 16, 32, 64, 128]}


def trained(experiment, results: Path) -> None:
    """Leave the record of ``experiment``, with the loss of a known law."""
    spec = read_spec(spec_file(results, experiment.experiment_id))
    tokens = experiment.num_tokens
    outcome = {
        "status": "completed",
        "reason": "",
        "final_loss": loss_of(LAWS["symmetric"], experiment.count.params, tokens),
        "final_loss_se": None,
        "loss_curve": {},
        "tokens_seen": tokens,
        "input_positions": tokens,
        "num_params": experiment.num_params,
        "steps_done": experiment.steps,
        "epochs": 1.0,
        "wall_seconds": 1.0,
        "tokens_per_second": 1.0,
    }
    record = Record(spec.experiment_id, spec.hash, spec.recipe.to_dict(), spec.count, 1.0, outcome)
    folder = run_folder(results, experiment.experiment_id)
    finish_run(folder, record.to_dict(), folder / "result.json")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """The folder ``results`` of a sweep that was planned, recorded, collected and fitted."""
    root = tmp_path_factory.mktemp("sweep")
    (root / "bundleplugin.py").write_text(MODULE)
    config = config_of("mine", "bundleplugin")
    config |= {
        "budgets": list(BUDGETS),
        "sizes": {"per_budget": BUDGETS},
        "limits": {**config["limits"], "max_epochs": 1e6},
    }
    (root / "sweep.yaml").write_text(json.dumps(config))
    results = root / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        make_plan(complete_config(config), results, [str(root)])
    (path,) = (results / ".plan/plans").iterdir()
    plan = read_plan(path)
    kept = keep_plan(plan, "mine", results)
    for experiment in plan.experiments:
        trained(experiment, results)
    tables = ["--json", results / "mine/results.json", "--csv", results / "mine/results.csv"]
    run("collect", "--plan", kept, "--results", results, *tables)
    fit = ["--out", results / "mine/fit.json", "--bootstrap", 10, "--window", 50]
    run("fit", "--runs", tables[-1], "--sizes", kept, *fit)
    (results / "mine/answer.txt").write_text("the answer\n")
    return results


@pytest.fixture(scope="module")
def bundle(sweep) -> Path:
    """The bundle of that sweep."""
    out = sweep.parent / "mine.zip"
    run("export", sweep / "mine", "-o", out, "--config", sweep.parent / "sweep.yaml")
    return out


def run(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def refused(capsys, *arguments: object) -> str:
    """The error with which a command is refused."""
    assert main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err


def changed(bundle: Path, out: Path, **contents: bytes | None) -> Path:
    """A copy of ``bundle`` with other members: bytes of its own, or None for one that goes."""
    with zipfile.ZipFile(bundle) as archive:
        members = {name: archive.read(name) for name in archive.namelist()} | contents
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)
    return out


def metadata(bundle: Path, change) -> bytes:
    """The metadata of ``bundle`` after ``change``, which edits the entities by their ids."""
    with zipfile.ZipFile(bundle) as archive:
        value = json.loads(archive.read(METADATA))
    change({part["@id"]: part for part in value["@graph"]})
    return json.dumps(value).encode()


def test_a_bundle_is_added_on_another_machine_and_equals_what_was_packed(
    sweep, bundle, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    run("import", bundle)
    printed = capsys.readouterr().out
    assert "equals its fit byte for byte; 10 records imported, 0 were here already" in printed
    for name in ("fit.json", "results.csv", "results.json", "answer.txt"):
        assert Path("results/mine", name).read_bytes() == (sweep / "mine" / name).read_bytes()
    for record in sweep.glob("runs/*/record.json"):
        assert Path("results", record.relative_to(sweep)).read_bytes() == record.read_bytes()
    run("runs", "list", "--json")
    listed = json.loads(capsys.readouterr().out)["runs"]
    assert {(entry["status"], *entry["sweeps"]) for entry in listed} == {("completed", "mine")}
    assert load_config("results/mine/config.yaml") == load_config(sweep.parent / "sweep.yaml")
    run("import", bundle)
    assert "0 records imported, 10 were here already" in capsys.readouterr().out


def test_the_same_sweep_gives_the_same_bundle_from_the_imported_one_too(
    sweep, bundle, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run("import", bundle)
    kept = (sweep / "mine/fit.json").stat()
    os.utime("results/mine/fit.json", (kept.st_atime, kept.st_mtime))
    run("export", "results/mine", "-o", "again.zip", "--config", sweep.parent / "sweep.yaml")
    assert Path("again.zip").read_bytes() == bundle.read_bytes()


def test_the_metadata_are_an_ro_crate_that_lists_every_file(bundle):
    with zipfile.ZipFile(bundle) as archive:
        names = set(archive.namelist()) - {METADATA}
        graph = {part["@id"]: part for part in json.loads(archive.read(METADATA))["@graph"]}
    assert graph[METADATA]["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert graph[METADATA]["about"] == {"@id": "./"}
    assert {part["@id"] for part in graph["./"]["hasPart"]} == names
    assert {"name", "description", "datePublished", "license"} <= graph["./"].keys()
    assert all(graph[name]["@type"] == "File" for name in names)


def test_the_card_says_what_is_in_it_and_answers(bundle):
    card = read_bundle(bundle).files["README.md"].decode()
    assert card.startswith("---\npretty_name: Scaling-law sweep mine\n")
    assert "10 training runs" in card
    assert "flops-fit import mine.zip" in card
    assert "| C (FLOPs) | N* |" in card
    assert "stated no license" in card


def test_one_flipped_byte_of_any_member_is_found(bundle, tmp_path, capsys):
    out = tmp_path / "flipped.zip"
    members = read_bundle(bundle).files
    for name, content in members.items():
        flipped = bytes([content[0] ^ 1]) + content[1:]
        error = refused(capsys, "import", changed(bundle, out, **{name: flipped}))
        assert f"{name}: does not have its checksum; nothing was imported" in error
    whole, refusals = bundle.read_bytes(), []
    for place in range(
        7, len(whole), len(whole) // 200
    ):  # of what is compressed, and of its headers
        raw = bytearray(whole)
        raw[place] ^= 1
        out.write_bytes(raw)
        try:
            assert read_bundle(out).files == members  # a byte that says nothing, such as a date
        except FlopsFitError as error:
            refusals.append(str(error))
    assert len(refusals) > 150
    assert all("flipped.zip" in text for text in refusals)


@pytest.mark.parametrize(
    "name",
    [
        "../outside.txt",
        "/etc/outside.txt",
        "runs/../../record.json",
        "runs/a/record.json/../../../x",
        "runs\\a\\record.json",
        "model.pkl",
        "runs/",
    ],
)
def test_a_member_with_another_name_is_refused_before_anything_is_written(
    bundle, tmp_path, monkeypatch, capsys, name
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    out = changed(bundle, tmp_path / "other.zip", **{name: b"x"})
    assert "is no file of a bundle; nothing was imported" in refused(capsys, "import", out)
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "other.zip"] or not any(
        Path().iterdir()
    )


def test_a_missing_file_is_named(bundle, tmp_path, capsys):
    for name in ("fit.json", "results.csv", METADATA):
        out = changed(bundle, tmp_path / "short.zip", **{name: None})
        assert f"{name}: missing" in refused(capsys, "import", out)


def test_a_newer_format_is_refused(bundle, tmp_path, capsys):
    newer = metadata(bundle, lambda graph: graph["./"].update(bundleFormat=2))
    out = changed(bundle, tmp_path / "newer.zip", **{METADATA: newer})
    assert "format 2 was written by a newer version" in refused(capsys, "import", out)


@pytest.mark.parametrize("name", ["../up", "runs", "", 3])
def test_a_name_that_is_none_of_a_sweep_is_refused(bundle, tmp_path, capsys, name):
    other = metadata(bundle, lambda graph: graph["./"].update(name=name))
    out = changed(bundle, tmp_path / "named.zip", **{METADATA: other})
    assert "is no name of a sweep" in refused(capsys, "import", out)


def forged(bundle: Path, out: Path, name: str, content: bytes) -> Path:
    """A copy of ``bundle`` whose member ``name`` is ``content``, with the right checksum."""

    def listed(graph):
        graph[name]["sha256"] = hashlib.sha256(content).hexdigest()

    return changed(bundle, out, **{name: content, METADATA: metadata(bundle, listed)})


def test_contents_that_do_not_follow_from_the_records_are_refused(bundle, tmp_path, capsys):
    files = read_bundle(bundle).files
    name = next(iter(read_bundle(bundle).runs))
    record = json.loads(files[name])
    sealed = seal({k: v for k, v in (record | {"final_loss": 1.0}).items() if k != "checksum"})
    fit = json.loads(files["fit.json"])
    fit["parametric"]["E"] *= 1.01
    for member, content, why in (
        (name, files[name].replace(b'"final_loss": ', b'"final_loss": 1'), "its checksum"),
        (name, json.dumps(sealed).encode(), "results.csv: does not follow from"),
        ("fit.json", json.dumps(fit, indent=1).encode(), "differs from it by up to 9.9e-03"),
    ):
        out = forged(bundle, tmp_path / "forged.zip", member, content)
        assert why in refused(capsys, "import", out, "--results", tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("kind", ["record", "fit"])
def test_a_file_that_is_here_with_another_content_is_named_and_stays(
    sweep, bundle, tmp_path, capsys, kind
):
    results = tmp_path / "results"
    if kind == "record":
        (source,) = list(sweep.glob("runs/*/record.json"))[:1]
        target = results / source.relative_to(sweep)
        record = {k: v for k, v in read_json(source).items() if k != "checksum"}
        write_json(target, seal(record | {"wall_seconds": 2.0}))
    else:
        target = results / "mine/fit.json"
        write_json(target, {})
    before = target.read_bytes()
    error = refused(capsys, "import", bundle, "--results", results)
    assert f"{target}: is here with another content; nothing was imported" in error
    assert target.read_bytes() == before
    assert [path for path in results.rglob("*") if path.is_file()] == [target]


def test_a_table_of_runs_makes_a_bundle_too(sweep, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(sweep / "mine/results.csv", "runs.csv")
    run("fit", "--runs", "runs.csv", "--out", "results/bare/fit.json", "--bootstrap", 10)
    run("export", "results/bare", "-o", "bare.zip", "--license", "CC-BY-4.0")
    assert b"license: CC-BY-4.0" in read_bundle("bare.zip").files["README.md"]
    run("import", "bare.zip", "--results", "other")
    assert Path("other/bare/table.csv").read_bytes() == Path("runs.csv").read_bytes()
    Path("runs.csv").unlink()
    assert "runs.csv: the table of" in refused(capsys, "export", "results/bare", "-o", "x.zip")


def test_a_sweep_that_does_not_follow_from_its_records_is_not_packed(sweep, tmp_path, capsys):
    results = Path(shutil.copytree(sweep, tmp_path / "results"))
    next(results.glob("runs/*/record.json")).unlink()
    error = refused(capsys, "export", results / "mine", "-o", tmp_path / "x.zip")
    assert "does not follow from the plan and the records" in error
    assert not (tmp_path / "x.zip").exists()
