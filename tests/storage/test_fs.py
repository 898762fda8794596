"""A sweep whose jobs see nothing of the project: all files travel through a store on a disk."""

import json
import subprocess
from pathlib import Path

import pytest
from place import RUNS, Place, counted, missing

pytestmark = [
    pytest.mark.storage,
    pytest.mark.skipif(bool(missing()), reason=f"needs {', '.join(missing())}: make test-storage"),
]
BITS = ("final_loss", "final_loss_se", "loss_curve", "tokens_seen", "steps_done")


def place(root: Path, name: str, checkpoints: str = "checkpoints", **variables: str) -> Place:
    store = ["--default-storage-provider", "fs", "--default-storage-prefix", str(root / "store")]
    return Place(root, name, store, f"file://{root}/{checkpoints}", **variables)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def swept(root) -> tuple[Place, str]:
    """A place whose sweep has run to its end, with what Snakemake printed; one run was preempted."""
    first = place(root, "first", PREEMPTED_ONCE=str(root / "preempted"))
    return first, first.run_elsewhere("--retries", "1")


@pytest.fixture(scope="module")
def stored(root, swept) -> Path:
    return root / "store/results"


def results(stored: Path) -> list[Path]:
    return sorted(stored.glob("runs/*/result.json"))


def test_no_job_saw_the_project(swept):
    jobs = [*swept[0].jobs.iterdir()]
    assert len(jobs) == 1 + 1 + RUNS + 1 + 3  # data, check, runs and a retry, fit to report
    assert {(job / "seen").read_text() for job in jobs} == {""}


def test_the_answer_is_printed_and_the_page_lies_where_it_says(swept, stored):
    done, output = swept
    assert (stored / "smoke/answer.txt").read_text() in output
    page = done.folder / "results/smoke/report.html"
    assert page.read_bytes() == (stored / "smoke/report.html").read_bytes()


def test_the_progress_is_that_of_the_jobs(swept):
    said = counted(swept[1])
    assert said[0] == 0
    assert said[-1] == RUNS
    assert said == sorted(set(said))


def test_a_preempted_run_continued_on_another_machine_with_the_same_bits(root, swept, stored):
    records = [json.loads(path.read_text()) for path in results(stored)]
    (preempted,) = [record for record in records if record["resumed_at_step"]]
    stopped_in = Path((root / "preempted").read_text())
    assert swept[0].jobs in stopped_in.parents
    alone = place(root, "alone", "others")
    alone.run("plan", "--cores", "1", shared=True)
    result = f"results/runs/{preempted['experiment_id']}/result.json"
    alone.run(result, "--cores", "1", shared=True)
    (path,) = alone.results.glob("runs/*/record.json")
    whole = json.loads(path.read_text())
    assert whole["resumed_at_step"] == 0
    assert {key: whole[key] for key in BITS} == {key: preempted[key] for key in BITS}


def test_another_folder_has_nothing_to_do_prints_the_answer_and_has_the_records(root, stored):
    other = place(root, "other")
    output = other.run("--cores", "1")
    assert "Nothing to be done" in output
    assert (stored / "smoke/answer.txt").read_text() in output
    assert counted(output) == [RUNS]
    for path in results(stored):
        record = other.results / "runs" / path.parent.name / "record.json"
        assert record.read_bytes() == path.read_bytes()
    said = other.verb("progress")
    assert counted(said) == [RUNS]
    assert f"copied from {root}/store" in said


def test_a_run_whose_result_is_lost_is_restored_from_its_record(root, stored):
    lost = results(stored)[0]
    before = lost.read_bytes()
    lost.unlink()
    again = place(root, "again")
    output = again.run_elsewhere("--until", "train_run")
    assert counted(output) == [RUNS - 1, RUNS]
    assert lost.read_bytes() == before
    assert "restored from its record" in (lost.parent / "train.log").read_text()


def test_a_folder_that_ran_without_a_store_is_left_alone(root):
    mixed = place(root, "mixed")
    kept = mixed.results / "runs/mine/record.json"
    kept.parent.mkdir(parents=True)
    kept.touch()
    output = mixed.run("-n", "--cores", "1", succeeds=False)
    assert "flops-fit: error: results/runs: holds files of a sweep that ran without" in output
    assert "Traceback" not in output
    assert kept.exists()


def test_a_module_that_git_does_not_list_is_named_before_a_job_lacks_it(root):
    local = place(root, "local")
    subprocess.run(["git", "rm", "-q", "--cached", "myloss.py"], cwd=local.folder, check=True)
    output = local.run_elsewhere(succeeds=False)
    assert "flops-fit: error: myloss.py: git does not list it" in output
    assert "Traceback" not in output


def test_failures_cannot_be_accepted_where_their_reasons_are_not_seen(root):
    strict = place(root, "strict")
    output = strict.run("-n", "--cores", "1", "--config", "accept_failures=true", succeeds=False)
    assert "flops-fit: error: accept_failures: true; allowed without a shared file" in output


def test_a_table_of_runs_is_fitted_where_snakemake_runs(root):
    table = place(root, "table")
    source = Path(__file__).parents[2] / "docs/standard/results.csv"
    (table.folder / "table.csv").write_bytes(source.read_bytes())
    (table.folder / "sweep.yaml").write_text("name: table\nruns: table.csv\nfit: {bootstrap: 0}\n")
    output = table.run_elsewhere()
    assert (root / "store/results/table/answer.txt").read_text() in output
    assert not [*table.jobs.iterdir()]
    subprocess.run(["git", "status"], cwd=table.folder, check=True, capture_output=True)
