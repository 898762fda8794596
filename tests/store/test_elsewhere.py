"""Jobs that share no files: links to local copies, specs that were moved, data in one file."""

import os
from pathlib import Path

import pytest
import recipes
from plans import grid, plan_of

from flops_fit.cli.main import main
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import run_folder, spec_file, sweep_plan_file
from flops_fit.experiment.spec import Spec, read_spec
from flops_fit.files import write_json
from flops_fit.jobs.progress import Progress, Reporter
from flops_fit.store.elsewhere import link_copies, note_store, restore_records, settle_specs
from flops_fit.store.packed import pack_data, unpack_data


@pytest.fixture
def folders(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """The folder of results, and that of the local copies of a store."""
    monkeypatch.chdir(tmp_path)
    return Path("results"), Path(".snakemake/storage/fs/results")


def test_what_is_written_below_the_results_is_a_copy_of_the_store(folders):
    results, copies = folders
    link_copies(results, copies, ["mine"])
    link_copies(results, copies, ["mine", "other"])  # the next job, with one sweep more
    for name in ("runs/a/result.json", ".plan/checked/b.json", "mine/answer.txt", "other/c"):
        path = results / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        assert (copies / name).read_text() == name


def test_another_store_gets_links_of_its_own_and_real_files_are_refused(folders):
    results, copies = folders
    (results / "data").mkdir(parents=True)  # empty: nothing is lost
    link_copies(results, copies, ["mine"])
    (results / "mine/answer.txt").write_text("kept")
    link_copies(results, copies.with_name("others"), ["mine"])
    assert not (results / "mine/answer.txt").exists()
    assert (copies / "mine/answer.txt").read_text() == "kept"
    (results / "real").mkdir()
    (results / "real/answer.txt").write_text("mine")
    with pytest.raises(FlopsFitError, match="results/real: holds files of a sweep that ran"):
        link_copies(results, copies, ["real"])
    assert (results / "real/answer.txt").read_text() == "mine"


def test_specs_from_another_machine_name_the_folders_of_this_one_and_keep_their_hash(
    tmp_path, monkeypatch
):
    there, here = tmp_path / "there", tmp_path / "here"
    here.mkdir()
    spec = recipes.spec(recipes.identity())
    spec |= {"search_paths": [str(there), str(there / "checkout"), "/opt/lib"]}
    spec["uses"] = {
        "code": {"mine.py": f"{there}/mine.py", "lib.py": "/opt/lib/lib.py"},
        "files": {"beside": f"{there}-beside/a.txt"},
        "packages": [],
    }
    monkeypatch.chdir(here)
    path = spec_file("results", spec["experiment_id"])
    write_json(path, spec)
    settle_specs("results")
    moved = read_spec(path)
    assert moved.search_paths == [str(here), str(here / "checkout"), "/opt/lib"]
    assert moved.uses.code == {"mine.py": f"{here}/mine.py", "lib.py": "/opt/lib/lib.py"}
    assert moved.uses.files == {"beside": f"{there}-beside/a.txt"}
    assert moved.recipe == Spec.from_dict(spec).recipe
    before = path.read_bytes()
    settle_specs("results")
    assert path.read_bytes() == before


@pytest.fixture
def packed(tmp_path) -> Path:
    """Prepared data that came as one file, whose folder is not there yet."""
    made = tmp_path / "made"
    (made / "parts").mkdir(parents=True)
    (made / "parts/0.bin").write_bytes(os.urandom(1000))
    (made / "manifest.json").write_text("{}")
    pack_data(made, tmp_path / "data/text-1.zip")
    return tmp_path / "data/text-1"


def test_prepared_data_are_the_same_after_their_way(packed, tmp_path):
    unpack_data(packed)
    for name in ("parts/0.bin", "manifest.json"):
        assert (packed / name).read_bytes() == (tmp_path / "made" / name).read_bytes()
    assert {path.name for path in packed.parent.iterdir()} == {"text-1", "text-1.zip"}
    (packed / "parts/0.bin").write_bytes(b"edited")
    unpack_data(packed)  # data that are there are left to the check of their manifest
    assert (packed / "parts/0.bin").read_bytes() == b"edited"


def test_half_a_file_of_data_is_refused_by_name_and_leaves_nothing(packed):
    archive = packed.with_name("text-1.zip")
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(FlopsFitError, match=r"text-1.zip: cannot be unpacked"):
        unpack_data(packed)
    assert [path.name for path in packed.parent.iterdir()] == ["text-1.zip"]


def test_without_a_file_there_is_nothing_to_unpack(tmp_path):
    unpack_data(None)
    unpack_data(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_broken_result_from_the_store_makes_no_record(tmp_path):
    plan = plan_of(grid())
    folder = run_folder(tmp_path, plan.experiments[0].experiment_id)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    restore_records(plan, tmp_path)
    assert not (folder / "record.json").exists()


def test_runs_that_ended_elsewhere_count_and_tell_no_time(tmp_path):
    plan = plan_of(grid(budgets=[1e12], ratios=[5, 20, 80, 320]))
    ended = {plan.experiments[0].experiment_id}
    line = Progress.of(plan, tmp_path, ended).line()
    assert line.startswith("1 of 4 runs")
    assert "left" not in line


def test_a_copy_that_snakemake_removes_leaves_the_run_ended(tmp_path):
    plan = plan_of(grid(budgets=[1e12], ratios=[5, 20, 80, 320]))
    write_json(sweep_plan_file(tmp_path, "mine"), plan.to_dict())
    note_store(tmp_path, "s3://bucket")
    first, second, *_ = plan.experiments
    result = run_folder(tmp_path, first.experiment_id) / "result.json"
    write_json(result, {"wall_seconds": 1.0})
    reporter = Reporter(sweep_plan_file(tmp_path, "mine"), tmp_path)
    assert reporter.news().startswith("mine: 1 of 4 runs")
    result.unlink()
    reporter._next = 0.0
    assert reporter.news({second.experiment_id}).startswith("mine: 2 of 4 runs")


def test_the_progress_says_from_where_it_knows(tmp_path, capsys):
    plan = plan_of(grid())
    write_json(sweep_plan_file(tmp_path, "mine"), plan.to_dict())
    note_store(tmp_path, "s3://bucket/mine")
    assert main(["progress", "--results", str(tmp_path)]) == 0
    assert "copied from s3://bucket/mine when it last started or ended" in capsys.readouterr().err
    note_store(tmp_path, "")
    main(["progress", "--results", str(tmp_path)])
    assert "copied" not in capsys.readouterr().err
