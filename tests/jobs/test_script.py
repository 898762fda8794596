"""A run of a user's own script: what is recorded and said, whatever the script does."""

import csv
import io
import json
import os
import signal
from pathlib import Path

import jsonschema
import pytest
from script_sweep import GOOD, HEAD, ScriptSweep
from waiting import PATIENCE, until

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import spec_file
from flops_fit.experiment.script_recipe import ScriptProgram, ScriptRecipe, ScriptShared
from flops_fit.experiment.spec import read_spec
from flops_fit.jobs.progress import Progress
from flops_fit.jobs.script_trial import UNTOLD, try_script
from flops_fit.plan.planner import make_plan
from flops_fit.plan.price import Rate
from flops_fit.plan.table import plan_csv, plan_rows
from flops_fit.report.methods import _recipe_rows
from flops_fit.store.collect import collect
from flops_fit.store.plan_file import keep_plan, read_plan
from flops_fit.store.runs import check_foreign, import_record

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
# what the script does -> (status of the job, what is recorded as, a part of what is said)
LIES = {
    "nothing wrong": (GOOD, 0, "completed", ""),
    "half of the tokens": (
        "run.finish(2.5, run.tokens // 2)",
        0,
        "completed",
        "trained on 1040 tokens, planned 2080",
    ),
    "another width": ("run.finish(2.5, run.tokens, params=4)", 1, None, "params = 4, and the plan"),
    "NaN": ("run.finish(float('nan'), run.tokens)", 0, "diverged", "the loss is nan"),
    "no finish": ("", 1, None, "ended without run.finish"),
    "a crash": ("raise RuntimeError('boom')", 1, None, "RuntimeError: boom (train.py:4)"),
    "exit 1 after finish": (
        GOOD + "\nsys.exit(1)",
        0,
        "completed",
        "ended with status 1 after its",
    ),
    "a hang after finish": (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + GOOD + "\ntime.sleep(600)",
        0,
        "completed",
        "the script still ran 0.2 s after its result, and was ended",
    ),
    "broken JSON": (
        "open(os.environ['FLOPS_FIT_RESULT'], 'w').write('{')",
        1,
        None,
        "not valid JSON",
    ),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.seconds
def test_a_script_that_lies_or_breaks(tmp_path, lie):
    body, status, recorded, said = LIES[lie]
    sweep = ScriptSweep(tmp_path, body)
    patience = {"FLOPS_FIT_FINISHED_SECONDS": "0.2"} if lie == "a hang after finish" else {}
    assert sweep.train(**patience) == status, sweep.said
    record = sweep.record
    assert (record and record["status"]) == recorded
    assert said in sweep.said + json.dumps(record)
    if recorded is None:
        assert said in sweep.failure
        return
    assert sweep.failure is None
    assert record["trained_by"] == "script"
    assert check_foreign((sweep.folder / "record.json").read_bytes()) == record
    assert {*os.listdir(sweep.folder)} == {
        ".lock",
        ".launch.lock",
        "script",
        "record.json",
        "result.json",
    }
    assert sweep.train() == 0
    assert "restored from its record" in sweep.said


ACCELERATED = """
if run.is_main:
    from accelerate import Accelerator
    import json
    names = ("ACCELERATE_MIXED_PRECISION", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES")
    json.dump({name: os.environ.get(name) for name in names}, open("seen.json", "w"))
"""


@pytest.mark.seconds
def test_two_processes_by_accelerate_with_the_user_s_config(tmp_path):
    (tmp_path / "accelerate.yaml").write_text(
        "mixed_precision: bf16\ngpu_ids: '5,6'\nnum_processes: 7\nmain_process_port: 1\n"
    )
    trainer = {
        "script": str(tmp_path / "train.py"),
        "accelerate": str(tmp_path / "accelerate.yaml"),
    }
    sweep = ScriptSweep(tmp_path, ACCELERATED + GOOD, trainer=trainer)
    assert sweep.train("--processes", "2") == 0, sweep.said
    assert sweep.record["processes"] == 2
    assert sweep.record["notes"] == []
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert (seen["ACCELERATE_MIXED_PRECISION"], seen["WORLD_SIZE"]) == ("bf16", "2")
    assert seen["CUDA_VISIBLE_DEVICES"] != "5,6"


@pytest.mark.seconds
def test_the_real_d_and_its_flops_are_collected(tmp_path):
    sweep = ScriptSweep(tmp_path, "run.finish(2.5, run.tokens // 2)")
    assert sweep.train() == 0
    plan = read_plan(keep_plan_of(sweep))
    (record,) = collect(plan, sweep.results)
    assert (record["num_tokens"], record["tokens_seen"]) == (2080, 1040)
    assert record["flops_counted"] == 4800 * 1040
    assert record["notes"] == ["trained on 1040 tokens, planned 2080"]


def keep_plan_of(sweep):
    (path,) = (sweep.results / ".plan" / "plans").glob("*.json")
    return keep_plan(read_plan(path), "own", sweep.results)


@pytest.mark.seconds
def test_counts_that_were_wrong_are_corrected_without_training_again(tmp_path):
    body = "open('started', 'a').write('x')\nrun.finish(2.5, run.tokens, params=4)"
    sweep = ScriptSweep(tmp_path, body)
    assert sweep.train() == 1
    assert sweep.train() == 2
    assert "params = 4, and the plan counts params = 800" in sweep.said
    spec = spec_file(sweep.results, sweep.id)
    value = json.loads(spec.read_text())
    value["counts"] |= {"params": 4}
    spec.write_text(json.dumps(value))
    assert sweep.train() == 0
    assert sweep.record["reported_params"] == 4
    assert sweep.failure is None
    assert (tmp_path / "started").read_text() == "x"


SAVING = """
saved = run.folder / "step"
step = int(saved.read_text()) if saved.exists() else 0
open("starts", "a").write(f"{step}\\n")
while step < run.steps:
    step += 1
    run.log(tokens=40 * step, loss=5 / step)
    if run.should_stop:
        saved.write_text(str(step))
        run.stopped()
    open("listening", "w").close()
    while not saved.exists() and not run.should_stop:  # the first time it waits to be stopped
        time.sleep(0.01)
"""


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("to", "number", "status"),
    [
        (os.kill, signal.SIGTERM, 75),
        (os.killpg, signal.SIGTERM, 75),
        (os.kill, signal.SIGUSR1, 75),
        (os.kill, signal.SIGKILL, -signal.SIGKILL),  # the script is then told by the kernel
    ],
    ids=["SIGTERM to the job", "SIGTERM to all", "SIGUSR1", "job killed"],
)
def test_a_run_that_is_asked_to_stop_goes_on_where_it_was(tmp_path, to, number, status):
    sweep = ScriptSweep(tmp_path, SAVING + GOOD)
    process = sweep.start()
    until((tmp_path / "listening").exists)
    to(process.pid, number)
    said = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == status, said
    assert ("stopped; a retry will resume it" in said) == (status == 75)
    assert sweep.record is None
    assert sweep.train() == 0
    starts = [int(line) for line in (tmp_path / "starts").read_text().split()]
    assert starts[0] == 0 < starts[1]
    assert sweep.record["loss_curve"]["tokens"] == [40 * n for n in range(1, 53)]


@pytest.mark.seconds
def test_what_is_written_keeps_the_published_schemas(tmp_path):
    sweep = ScriptSweep(tmp_path, GOOD)
    assert sweep.train() == 0
    (plan,) = (sweep.results / ".plan" / "plans").glob("*.json")
    files = {"plan": plan, "spec": spec_file(sweep.results, sweep.id)}
    for name, path in {**files, "record": sweep.folder / "record.json"}.items():
        schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
        jsonschema.validate(json.loads(path.read_text()), schema)


@pytest.mark.seconds
def test_a_running_script_counts_in_the_progress_of_its_sweep(tmp_path):
    sweep = ScriptSweep(tmp_path, GOOD)
    (path,) = (sweep.results / ".plan" / "plans").glob("*.json")
    plan = read_plan(path)
    (experiment,) = plan.experiments
    half = {"tokens": [experiment.num_tokens // 2], "loss": [2.0]}
    progress = {"hash": experiment.hash, "every": 1, "seconds": 30.0, "curve": half}
    place = sweep.folder / "script" / "progress.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(progress))
    line = Progress.of(plan, sweep.results).line()
    assert "0 of 1 runs" in line
    assert "(50%), about 30 s left" in line
    place.write_text(json.dumps({**progress, "hash": "another"}))
    assert "(0%)" in Progress.of(plan, sweep.results).line()


def test_the_plan_s_table_leaves_empty_what_the_script_decides(tmp_path):
    sweep = ScriptSweep(tmp_path)
    rows = plan_rows(read_plan(keep_plan_of(sweep)), Rate(1e9, 0.0, "none"), None, None)
    (line,) = csv.DictReader(io.StringIO(plan_csv(rows)))
    assert (line["warmup_steps"], line["decay_steps"], line["epochs"]) == ("", "", "")
    assert (line["steps"], line["tokens"], line["flops_counted"]) == ("52", "2080", "9984000.0")


def test_the_report_says_what_the_script_decides(tmp_path):
    program = ScriptProgram("train", "accelerate", ["train.py", "--lr", "{learning_rate}"], 10)
    recipe = ScriptRecipe(ScriptShared(program), 8, {}, 2080, 4, 52, 0.003, 0)
    rows = dict(_recipe_rows([{"identity": recipe.to_dict()}], None))
    assert rows["Schedule"] == rows["Optimiser"] == rows["Precision"] == "decided by the script"
    assert rows["Batch"] == "4 items of 10 tokens"
    assert rows["Learning rate"] == "0.003, as given to the script"


@pytest.mark.seconds
def test_a_result_that_its_launcher_did_not_live_to_record_counts(tmp_path):
    sweep = ScriptSweep(tmp_path, GOOD + "\nopen('started', 'a').write('x')\ntime.sleep(600)")
    process = sweep.start()
    until((tmp_path / "started").exists)
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert sweep.record is None
    assert sweep.train() == 0
    assert "restored from its record" in sweep.said
    assert "exit status" not in sweep.record["verified"]
    assert (tmp_path / "started").read_text() == "x"


@pytest.mark.seconds
def test_a_script_that_was_edited_since_the_plan_is_not_started(tmp_path):
    sweep = ScriptSweep(tmp_path)
    (tmp_path / "train.py").write_text(HEAD + "x = 1\n" + GOOD)
    assert sweep.train() == 2
    assert sweep.failure == "train.py changed since the plan was made; plan it again"


@pytest.mark.seconds
def test_the_trial_runs_two_steps_and_says_why_it_fails(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = ScriptSweep(tmp_path, "assert run.steps == 2\nprint('hello')\n" + GOOD)
    assert try_script(read_spec(spec_file(sweep.results, sweep.id))) == []
    assert not sweep.folder.exists()
    sweep = ScriptSweep(tmp_path, "print('hello')\nraise KeyError('seed')")
    with pytest.raises(FlopsFitError, match=r"(?s)trial of 2 steps: KeyError: 'seed'.*hello"):
        try_script(read_spec(spec_file(sweep.results, sweep.id)))
    alone = (
        "import json, os\nspec = json.load(open(os.environ['FLOPS_FIT_SPEC']))\n"
        "result = {k: spec[k] for k in ('format', 'experiment_id', 'hash', 'tokens')}\n"
        "result |= {'status': 'completed', 'loss': 2.5, 'try': True}\n"
        "json.dump(result, open(os.environ['FLOPS_FIT_RESULT'], 'w'))"
    )
    sweep = ScriptSweep(tmp_path, alone, head="")
    assert try_script(read_spec(spec_file(sweep.results, sweep.id))) == [UNTOLD]
    sweep = ScriptSweep(
        tmp_path, "1 / 0", trainer={"command": ["python", "train.py"], "trial": False}
    )
    (note,) = try_script(read_spec(spec_file(sweep.results, sweep.id)))
    assert "trainer.trial is false" in note


@pytest.mark.seconds
def test_settings_that_a_script_reads_before_it_asks_for_its_run_are_watched_too(tmp_path):
    (tmp_path / "settings.txt").write_text("one")
    head = HEAD.replace("run = ", "open('settings.txt').read()\nrun = ")
    sweep = ScriptSweep(tmp_path, head=head)
    assert sweep.train() == 0, sweep.said
    assert [*sweep.record["late"]] == ["settings.txt"]


@pytest.mark.seconds
def test_what_only_the_run_is_seen_to_use_is_recorded_and_watched_from_then_on(
    tmp_path, monkeypatch
):
    for name, text in {"later.py": "RATE = 1\n", "late.txt": "one", "old.log": ""}.items():
        (tmp_path / name).write_text(text)
    with open(tmp_path / "large.bin", "wb") as file:
        file.truncate(2**30 + 1)
    body = (
        "import importlib\nimportlib.import_module('later')\n"
        "for name in ('late.txt', 'old.log', 'large.bin'):\n    open(name).read(1)\n"
        "open('old.log', 'a').write('x')\nopen('new.txt', 'w').close()\nos.rename('new.txt', 'x.txt')\n"
        "open('x.txt').read()\nopen(run.folder / 'saved', 'w').close()\nopen(run.folder / 'saved')\n"
    )
    sweep = ScriptSweep(tmp_path, body + GOOD)
    assert sweep.train() == 0, sweep.said
    record = sweep.record
    assert {name: entry["kind"] for name, entry in record["late"].items()} == {
        "late.txt": "files",
        "later.py": "code",
    }
    assert "used by the run, but not by the plan: later.py, late.txt; changes" in sweep.said
    (note,) = record["notes"]
    assert "too large to be compared by content: large.bin" in note

    def planned():
        return make_plan(sweep.config, sweep.results, [str(tmp_path)]).experiments[0].experiment_id

    assert planned() == sweep.id
    (tmp_path / "later.py").write_text("# a comment\nRATE = 1\n")
    assert planned() == sweep.id
    (tmp_path / "late.txt").write_text("two")
    assert planned() != sweep.id
    (tmp_path / "late.txt").unlink()
    assert planned() == sweep.id
    (tmp_path / "late.txt").write_text("one")
    assert planned() == sweep.id
    (tmp_path / "later.py").write_text("RATE = 2\n")
    assert planned() != sweep.id
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FlopsFitError, match=r"it was trained with another later\.py than lies here"
    ):
        import_record(sweep.folder / "record.json", tmp_path / "elsewhere")
