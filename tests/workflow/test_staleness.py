"""What reruns is exactly what changed: the table of rows, driven through the real workflow.

Each row starts from the same trained sweep and asserts the exact sets of experiments and rules.
Where the set of jobs says it all, Snakemake is asked for it with ``-n``.
"""

import contextlib
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from project import CELLS, RESTORED, SWEEP, TABLES, WORK, label, points, restored, sizes
from waiting import until

pytestmark = pytest.mark.staleness

REPORT = {"write_report"}
PLOT = REPORT | {"plot_law"}
FIT = PLOT | {"fit_law"}
COLLECT = FIT | {"collect_runs"}
RETRAIN = COLLECT | {"plan_sweep", "train_run"}  # another plan, and therefore another plan.csv
RECHECK = RETRAIN | {"check_inputs"}  # other data, model, loss or optimiser: try one batch again


def test_a_first_run_trains_every_cell_once_under_the_default_profile(trained):
    project, _, first = trained
    assert first.trained == CELLS
    assert first.rules == RECHECK
    assert len(first.jobs) == len(CELLS) + len(RECHECK) - 1
    profile = project.checkout / "profiles/default"
    assert f"Using workflow specific profile {profile} for setting default" in first.output


def test_nothing_changed_runs_nothing(project):
    assert project.run().jobs == []


def test_nothing_runs_from_inside_the_folder_either(project):
    command = [part for part in project.command() if part not in ("--directory", str(project.work))]
    command[command.index(str(project.work / "sweep.yaml"))] = "sweep.yaml"
    done = subprocess.run(
        command,
        cwd=project.work,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Nothing to be done" in done.stderr
    assert "Using workflow specific profile" in done.stderr


CONFIGS = {  # what changes in the config: (the change, what trains, which rules run)
    "a budget": (
        {
            "budgets": [1e5, 2e5, 4e5],
            "sizes": {"per_budget": {**SWEEP["sizes"]["per_budget"], "4e5": [8, 16]}},
        },
        {"width8-D1.25e3-s0", "width16-D640-s0"},
        RETRAIN,
    ),
    "a seed": ({"seeds": [0, 1]}, {cell.replace("-s0", "-s1") for cell in CELLS}, RETRAIN),
    "a plot setting": ({"plot": {"dpi": 100}}, set(), PLOT),
    # Figures mark these budgets, and the plan's page warns where they lie far beyond its own.
    "the budgets asked for": ({"answer": {"budgets": [3e5]}}, set(), PLOT | {"plan_sweep"}),
    "a fit setting": ({"fit": {"bootstrap": 0, "delta": 1e-3}}, set(), FIT),
    "the learning rate of some": (
        {"learning_rate": {"value": 0.1, "size": {"reference": 8, "power": 0.5}}},
        {cell for cell in CELLS if not cell.startswith("width8-")},
        RETRAIN,
    ),
    "the batch of some": (
        {"batch": {"value": 32, "size": {"reference": 4, "power": 1}}},
        {"width8-D320-s0", "width8-D640-s0"},  # width 16 would have fewer steps than the floor
        RETRAIN,
    ),
    "the schedule": ({"schedule": {"kind": "linear"}}, CELLS, RECHECK),
    "a model argument": ({"model": {**SWEEP["model"], "kwargs": {"bias": True}}}, CELLS, RECHECK),
    "threads": ({"resources": {"threads": 2, "micro_batch_items": 8}}, set(), set()),
}


PLAN_EACH = """\
import os, sys
import torch
from flops_fit.config.load import load_config
from flops_fit.plan import cache, planner
from flops_fit.workflow import Sweep
cache._make_plan = planner.make_plan
for config in sys.argv[2:]:
    if not os.fork():  # each imports the modules of the user anew
        Sweep(load_config(config), sys.argv[1]).make_plan()
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def planned(trained) -> dict:
    """What Snakemake would do for each of `CONFIGS`: dry runs, two at a time, in one folder.

    One process plans all of them beforehand, because each dry run would import torch for it.
    """
    project = restored(trained)
    before = project.ids()
    files = {row: f"{row.replace(' ', '-')}.yaml" for row in CONFIGS}
    for row, file in files.items():
        project.configure(file, **CONFIGS[row][0])
    line = [sys.executable, "-c", PLAN_EACH, str(project.checkout), *files.values()]
    subprocess.run(line, cwd=project.work, env=project.environment(), check=True)
    plans = project.results / ".plan" / "plans"
    made = {*plans.iterdir()}
    with ThreadPoolExecutor(2) as pool:
        done = pool.map(lambda file: project.dry_run(config=file), files.values())
        outcomes = dict(zip(files, done, strict=True))
    assert {*plans.iterdir()} == made
    assert project.ids() == before
    return outcomes


@pytest.mark.parametrize("row", CONFIGS)
def test_a_changed_config_reruns_what_it_touches(planned, row):
    _, new, rules = CONFIGS[row]
    assert planned[row].trained == new
    assert planned[row].rules == rules
    assert planned[row].restored == set()


def test_an_added_size_is_trained_and_collected_beside_the_old_runs(project):
    before = project.ids()
    project.configure(sizes=sizes(large=(4, 8, 12, 16)))
    done = project.run(*TABLES)
    assert done.trained == {"width12-D416-s0"}
    assert done.rules == {"train_run", "collect_runs"}
    assert {label(i) for i in project.ids() - before} == {"width12-D416-s0"}
    assert len(json.loads((project.results / "own/results.json").read_text())) == len(CELLS) + 1


def test_a_cell_that_is_removed_and_comes_back_never_retrains(project):
    project.configure(sizes=sizes(large=(4, 8)))
    removed = project.run()
    assert (removed.trained, removed.restored) == (set(), set())
    assert removed.rules == COLLECT | {"plan_sweep"}
    assert len(json.loads((project.results / "own/results.json").read_text())) == len(CELLS) - 1
    project.configure()
    back = project.dry_run()
    assert (back.trained, back.restored) == (set(), set())
    assert back.rules == COLLECT | {"plan_sweep"}


def test_other_data_retrain_all(project):
    (project.work / "points.csv").write_text(points(201))
    planned = project.dry_run()
    assert planned.trained == CELLS
    assert planned.rules == RECHECK


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("work/mymodel.py", "nn.ReLU()", "nn.GELU()"),
        ("work/mydata.py", "table[:, :-1]", "-table[:, :-1]"),
        (
            "work/myloss.py",
            "F.cross_entropy(outputs, targets)",
            "F.cross_entropy(outputs, targets, label_smoothing=0.1)",
        ),
        (
            "checkout/src/flops_fit/experiment/options.py",
            "TRAINER_VERSION = ",
            "TRAINER_VERSION = 1000 + ",
        ),
    ],
    ids=["model", "data", "loss", "trainer version"],
)
def test_the_source_of_a_plug_in_and_the_trainer_version_retrain_all(project, file, old, new):
    project.edit(project.root / file, old, new)
    planned = project.dry_run()
    assert planned.trained == CELLS
    assert planned.rules == RECHECK


@pytest.mark.parametrize(
    ("file", "rules"),
    [
        ("store/collect.py", COLLECT),
        ("cli/fit.py", FIT),
        ("fit/surface.py", FIT),
        ("plots/draw.py", PLOT),
        ("report/page.py", REPORT),
        ("report/page.html.j2", REPORT | {"plan_sweep"}),  # the plan has a page too
        ("report/table.py", REPORT),
        ("plan/warnings.py", {"plan_sweep"}),
        ("training/evaluation.py", set()),
    ],
)
def test_the_code_of_a_step_reruns_that_step_and_below(project, file, rules):
    with (project.checkout / "src/flops_fit" / file).open("a") as code:
        code.write("\nEDITED = True\n")
    planned = project.dry_run()
    assert planned.rules == rules
    assert (planned.trained, planned.restored) == (set(), set())


def test_comments_rerun_nothing(project):
    files = [
        *project.work.glob("*.py"),
        *project.checkout.glob("workflow/rules/*.smk"),
        *project.checkout.glob("src/flops_fit/**/*.py"),
        project.checkout / "Snakefile",
    ]
    assert len(files) > 30
    for path in files:
        path.write_text(f"# A remark.\n{path.read_text()}")
    assert project.dry_run().jobs == []


def test_the_wording_of_shell_lines_reruns_nothing(project):
    for path in project.checkout.glob("workflow/rules/*.smk"):
        path.write_text(path.read_text().replace("python -m flops_fit ", "python -s -m flops_fit "))
    assert project.dry_run().jobs == []


def test_the_resources_and_threads_of_a_rule_rerun_nothing(project):
    project.edit(
        project.checkout / "workflow/rules/train.smk",
        "    resources:\n",
        "    resources:\n        disk_mb=800,\n",
    )
    assert project.dry_run("--set-threads", "train_run=2").jobs == []


def test_the_profile_reruns_nothing(project):
    with (project.checkout / "profiles/default/config.yaml").open("a") as profile:
        profile.write("retries: 2\ndefault-resources: [runtime=10, mem_mb=500]\n")
    assert project.dry_run().jobs == []


def test_a_deleted_result_is_restored_from_its_record(project):
    folder = project.run_folder("width8-D640-s0")
    (folder / "result.json").unlink()
    assert project.dry_run().rules == COLLECT | {"train_run"}
    done = project.run(*TABLES)
    assert (done.trained, done.restored) == (set(), {"width8-D640-s0"})
    assert done.rules == {"train_run", "collect_runs"}
    assert (folder / "result.json").read_bytes() == (folder / "record.json").read_bytes()


@pytest.mark.parametrize("garbage", [b'{"final_loss": 0.1', None], ids=["torn", "edited"])
def test_a_corrupt_result_is_named_moved_aside_and_restored(project, garbage):
    folder = project.run_folder("width8-D640-s0")
    result, record = folder / "result.json", (folder / "record.json").read_bytes()
    if garbage is None:  # still JSON, with a better loss
        garbage = json.dumps({**json.loads(record), "final_loss": 0.1}).encode()
    result.write_bytes(garbage)
    if garbage.endswith(b"0.1"):  # a dry run names the file and leaves it alone
        assert (
            "result.json: not a whole JSON record; a real run will move it aside"
            in project.dry_run().output
        )
        assert result.read_bytes() == garbage
    done = project.run(*TABLES)
    assert (done.trained, done.restored) == (set(), {"width8-D640-s0"})
    assert done.rules == {"train_run", "collect_runs"}
    assert f"{result.relative_to(project.work)}:" in done.output
    assert (folder / "result.json.corrupt").read_bytes() == garbage
    assert result.read_bytes() == record


def test_a_deleted_run_folder_retrains_exactly_that_run(project):
    folder = project.run_folder("width8-D640-s0")
    subprocess.run(["rm", "-r", str(folder)], check=True)
    planned = project.dry_run()
    assert planned.trained == {"width8-D640-s0"}
    assert planned.rules == COLLECT | {"train_run"}


@pytest.mark.slow
def test_a_table_edited_by_hand_is_named_kept_aside_and_made_again(project):
    table = project.results / "own/results.csv"
    collected = table.read_text()
    table.write_text(collected.replace("completed", "diverged", 1))
    assert "results.csv: edited after it was collected" in project.dry_run().output
    done = project.run()
    assert done.rules >= {"collect_runs", "fit_law"}
    assert not done.trained
    assert table.read_text() == collected
    assert "diverged" in table.with_name("results.csv.edited").read_text()


def test_a_corrupt_record_retrains_exactly_that_run_to_the_same_loss(project):
    folder = project.run_folder("width8-D640-s0")
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text("{}")
    done = project.run(*TABLES)
    assert (done.trained, done.restored) == ({"width8-D640-s0"}, set())
    assert done.rules == {"train_run", "collect_runs"}
    assert "record.json.corrupt" in done.output
    again = json.loads((folder / "record.json").read_text())
    assert again["loss_curve"] == record["loss_curve"]
    assert again["final_loss"] == record["final_loss"]


def test_two_sweeps_share_their_runs(project):
    project.configure(config="other.yaml", name="other", sizes=sizes(large=(8, 12, 16)))
    done = project.run(*TABLES, config="other.yaml")
    assert done.trained == {"width12-D416-s0"}
    assert done.rules == {"train_run", "collect_runs"}
    assert (project.results / "other/results.csv").exists()
    assert project.run().jobs == []


def test_a_config_edited_while_jobs_wait_changes_none_of_them(project):
    project.configure(sizes=sizes(large=(4, 8, 10, 12, 16)))
    new = {"width10-D512-s0", "width12-D416-s0"}
    with start(project, *TABLES) as snakemake:
        wait_for(lambda: any(project.runs.glob("*width1[02]*/.lock")), snakemake)
        project.configure(learning_rate={"value": 0.5}, sizes=sizes((4,), (4,)))
        output, _ = snakemake.communicate(timeout=900)
    done = project.outcome(snakemake.returncode, output)
    assert done.status == 0, output
    assert done.trained == new
    rows = json.loads((project.results / "own/results.json").read_text())
    assert {label(row["experiment_id"]) for row in rows} == CELLS | new
    assert {row["identity"]["learning_rate"] for row in rows} == {0.1}


def test_a_job_reads_its_own_spec_whatever_the_config_has_become(project):
    folder = project.run_folder("width8-D640-s0")
    subprocess.run(["rm", "-r", str(folder)], check=True)
    project.configure(learning_rate={"value": 0.5}, sizes=sizes((4,), (4,)))
    planned = project.dry_run(f"results/runs/{folder.name}/result.json")
    assert planned.jobs == [("train_run", folder.name)]


@pytest.mark.slow
def test_a_run_that_outlives_a_killed_snakemake_is_restored_and_not_repeated(project):
    project.configure(sizes=sizes(large=(4, 8, 12, 16)))
    with start(project, *TABLES, SECONDS_PER_ITEM="0.02") as snakemake:
        wait_for(lambda: any(project.runs.glob("*width12*/.lock")), snakemake)
        for process in psutil.Process(snakemake.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has just ended
                assert WORK.search(" ".join(process.cmdline()))
        snakemake.send_signal(signal.SIGKILL)
        snakemake.stdout.close()
    folder = project.run_folder("width12-D416-s0")
    assert not (folder / "record.json").exists(), "the run was to outlive Snakemake"
    project.run("--unlock")
    done = project.run(*TABLES)  # waits for the orphan, whose record it then finds
    assert (done.trained, done.restored) == (set(), {"width12-D416-s0"})
    assert done.rules == {"train_run", "collect_runs"}
    record = folder / "record.json"
    assert RESTORED in (folder / "train.log").read_text()
    assert (folder / "result.json").read_bytes() == record.read_bytes()
    assert project.run(*TABLES).jobs == []


def test_a_failed_run_can_be_left_out_and_is_counted_and_named(project):
    project.configure(sizes=sizes(large=(4, 8, 12, 16)))
    failed = project.run(succeeds=False, FAILING_WIDTH="12")
    assert failed.trained == {"width12-D416-s0"}
    assert failed.rules <= {"train_run", "plan_sweep"}
    assert "this width is not for me" in failed.output
    folder = project.run_folder("width12-D416-s0")
    assert "this width is not for me" in json.loads((folder / "failure.json").read_text())["reason"]
    assert project.dry_run().trained == {"width12-D416-s0"}

    accepted = project.run("--config", "accept_failures=true")
    assert accepted.trained == set()
    assert accepted.rules == COLLECT
    rows = json.loads((project.results / "own/results.json").read_text())
    assert [r["experiment_id"] for r in rows if r["status"] == "failed"] == [folder.name]
    for file in ("fit.json", "report.html"):
        assert folder.name in (project.results / "own" / file).read_text(), file


def start(project, *arguments: str, **variables: str) -> subprocess.Popen:
    """Snakemake in the background."""
    return subprocess.Popen(
        project.command(*arguments),
        cwd=project.root,
        env=project.environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition, process: subprocess.Popen) -> None:
    until(lambda: condition() or process.poll() is not None)
    assert condition(), process.communicate()[0]
