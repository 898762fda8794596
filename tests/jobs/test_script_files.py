"""A script that lies or breaks: what is recorded, and what is said."""

import json
from pathlib import Path

import jsonschema
import pytest
from script_job import PARAMS, ScriptJob, script_spec

from flops_fit.jobs.script_files import TRY, outcome_of, read_result

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
GOOD = "run.finish(loss=2.5, tokens=run.tokens, params=5000)"

# what the script does -> (its exit status, what it comes to, a part of what is said)
LIES = {
    "nothing wrong": (GOOD, 0, "completed", ""),
    "params with the embedding": ("run.finish(2.5, run.tokens, params=6000)", 0, "completed", ""),
    "a batch more": ("run.finish(2.5, run.tokens + 40)", 0, "completed", ""),
    "wrong tokens": (
        "run.finish(2.5, run.tokens // 2)",
        0,
        "completed",
        "trained on 2000 tokens, planned 4000",
    ),
    "wrong width": (
        "run.finish(2.5, run.tokens, params=4900)",
        0,
        "failed",
        "params = 4900, and the plan counts params = 5000, params_total = 6000; allowed: one of",
    ),
    "NaN": ("run.finish(float('nan'), run.tokens)", 0, "diverged", "the loss is nan"),
    "said to have diverged": ("run.diverged('spike at 300')", 0, "diverged", "spike at 300"),
    "loss of zero": (
        "run.finish(0.0, run.tokens)",
        1,
        "failed",
        "ValueError: run.finish: loss = 0; allowed: above zero",
    ),
    "loss below zero": ("run.finish(-1, run.tokens)", 1, "failed", "loss = -1; allowed: above"),
    "loss of text": (
        "run.finish('low', run.tokens)",
        1,
        "failed",
        "loss = 'low'; allowed: a number (train.py:4)",
    ),
    "no tokens": ("run.finish(2.5, 0)", 1, "failed", "tokens = 0; allowed: a whole number"),
    "exit 0 without finish": (
        "",
        0,
        "failed",
        "ended without run.finish(loss=..., tokens=...), so it has no result",
    ),
    "exit 3 without finish": ("sys.exit(3)", 3, "failed", "ended with status 3 and left no result"),
    "killed": ("os.kill(os.getpid(), 9)", -9, "failed", "by signal 9, usually for lack of memory"),
    "crash": ("raise RuntimeError('boom')", 1, "failed", "RuntimeError: boom (train.py:4)"),
    "crash in a library": (
        "import json\ndef load():\n    json.loads('{')\nload()",
        1,
        "failed",
        "(train.py:6)",
    ),
    "exit 1 after finish": (
        f"{GOOD}\nsys.exit(1)",
        1,
        "completed",
        "ended with status 1 after its result, which is kept",
    ),
    "crash after finish": (
        f"{GOOD}\n1 / 0",
        1,
        "completed",
        "ended with status 1 after its result",
    ),
    "finish twice": (
        f"{GOOD}\nrun.finish(loss=1.0, tokens=run.tokens)",
        0,
        "completed",
        "flops-fit: run.finish or run.diverged was called again; the first result counts",
    ),
    "finish by two processes": (
        f"pid = os.fork()\nif pid:\n    os.waitpid(pid, 0)\n    run.finish(1.0, run.tokens)\nelse:\n    {GOOD}",
        0,
        "completed",
        "another process left a result before this one; the first result counts",
    ),
    "finish by rank 1 alone": (
        f"os.environ['RANK'] = '1'\n{GOOD}",
        0,
        "failed",
        "must be called by the process of rank 0, or by all",
    ),
    "more processes than planned": (
        f"os.environ['WORLD_SIZE'] = '4'\n{GOOD}",
        0,
        "completed",
        "ran as 4 processes, planned 1",
    ),
    "a run alone": (
        f"del os.environ['FLOPS_FIT_SPEC']\nimport flops_fit.run as r\nr._current = None\nrun = current_experiment(tokens=4000, batch_items=4)\n{GOOD}",
        0,
        "failed",
        "without run.finish",
    ),
    "log after finish": (f"{GOOD}\nrun.log(tokens=1, loss=1)", 0, "completed", ""),
    "log without tokens": (
        f"run.log({{'loss': 2}})\n{GOOD}",
        0,
        "completed",
        "a point of the loss curve needs both tokens and loss",
    ),
    "10,000 log calls a step": (
        f"for step in range(100):\n    for i in range(10_000):\n        run.log(tokens=100 * i + 1, loss=3.0)\n{GOOD}",
        0,
        "completed",
        "",
    ),
    "stdout and stderr closed": (
        f"os.close(1)\nos.close(2)\nrun.log({{}})\n{GOOD}",
        0,
        "completed",
        "",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_a_script_says_is_checked_before_it_counts(tmp_path, lie):
    body, status, ending, said = LIES[lie]
    job = ScriptJob(tmp_path, body)
    outcome = job()
    assert (job.status, outcome.status) == (status, ending), job.stderr
    heard = "\n".join([outcome.reason, *outcome.notes, job.stderr])
    assert said in heard
    if ending == "completed":
        assert outcome.loss == 2.5
        assert ("tokens" in outcome.verified) == (lie != "wrong tokens")
        assert outcome.tokens == {"wrong tokens": 2000, "a batch more": 4040}.get(lie, 4000)
        if not said:
            assert not outcome.notes
            assert job.stderr == ""


RESULT = {
    "format": 1,
    "experiment_id": "train-8-D4000-s0-0123abcd",
    "hash": "0123abcd",
    "status": "completed",
    "loss": 2.5,
    "tokens": 4000,
}
# a result file of a program in another language -> what is said of it
FILES = {
    "broken": ("{", "not valid JSON"),
    "no object": ("[1]", "[1]; allowed: a JSON object"),
    "format": (RESULT | {"format": 2}, "format 2 was written by a newer version of flops-fit"),
    "id": (RESULT | {"experiment_id": "x"}, "experiment_id: 'x', which is another experiment's"),
    "hash": (RESULT | {"hash": "9"}, "hash: '9', which is another experiment's"),
    "status": (RESULT | {"status": "done"}, "status: 'done'; allowed: completed, diverged"),
    "loss missing": ({k: v for k, v in RESULT.items() if k != "loss"}, "loss: missing; allowed"),
    "loss as text": (RESULT | {"loss": "2.5"}, "loss: '2.5'; allowed: a number"),
    "loss NaN": (RESULT | {"loss": float("nan")}, "loss: nan; allowed: a finite number above zero"),
    "loss zero": (RESULT | {"loss": 0}, "loss: 0; allowed"),
    "tokens zero": (RESULT | {"tokens": 0}, "tokens: 0; allowed: a whole number above zero"),
    "tokens of a fraction": (RESULT | {"tokens": 1.5}, "tokens: 1.5; allowed: a whole number"),
    "tokens true": (RESULT | {"tokens": True}, "tokens: True; allowed: a whole number"),
    "curve": (RESULT | {"curve": {"tokens": [1], "loss": []}}, "two lists of finite numbers"),
    "metrics": (RESULT | {"metrics": {"a": "b"}}, "metrics: a: 'b'; allowed: a finite number or"),
    "a trial": (RESULT | {"try": True}, "try: True; allowed: false, as FLOPS_FIT_TRY was not set"),
    "error without reason": (RESULT | {"status": "error"}, "reason: missing; allowed: text"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_result_file_that_cannot_count_is_refused_in_a_sentence(tmp_path, name):
    content, said = FILES[name]
    path = tmp_path / "script_result.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    outcome = outcome_of(path, script_spec(tmp_path), PARAMS, 0)
    assert outcome.status == "failed"
    assert said in outcome.reason
    assert str(path) in outcome.reason


def test_other_keys_are_named_and_not_used(tmp_path):
    path = tmp_path / "script_result.json"
    path.write_text(json.dumps(RESULT | {"losse_se": 0.1}))
    outcome = outcome_of(path, script_spec(tmp_path), PARAMS, 0)
    assert outcome.status == "completed"
    assert outcome.notes == ("not used of its result: losse_se",)
    assert outcome.verified == ("tokens", "exit status")


def test_a_stop_without_a_result_is_no_failure(tmp_path):
    for status, asked, ending in (
        (-15, True, "stopped"),
        (1, True, "stopped"),
        (-15, False, "failed"),
    ):
        outcome = outcome_of(tmp_path / "none.json", script_spec(tmp_path), PARAMS, status, asked)
        assert outcome.status == ending


def test_an_error_after_a_stop_signal_is_no_failure_and_its_traceback_is_shown(tmp_path):
    job = ScriptJob(tmp_path, "raise ConnectionError('a peer has left')")
    assert job(asked_to_stop=True).status == "stopped"
    assert job.outcome().status == "failed"
    assert job.stderr.startswith("Traceback")


def test_a_trial_trains_two_steps_and_counts_for_nothing_else(tmp_path):
    job = ScriptJob(tmp_path, "assert run.steps == 2\nrun.finish(2.5, run.tokens, params=5000)")
    job.spec.write(tmp_path / "script_spec.json")
    job.environment[TRY] = "1"
    job()
    assert "was not set" in job.outcome().reason
    trial = outcome_of(job.result, job.spec.trial("x"), PARAMS, 0, trial=True)
    assert (trial.status, trial.tokens, trial.notes) == ("completed", 80, ())


def schema(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((SCHEMAS / name).read_text()))


def test_spec_and_results_are_those_of_the_schemas(tmp_path):
    job = ScriptJob(tmp_path, f"run.log(tokens=40, loss=3)\n{GOOD}")
    job()
    schema("script_spec.schema.json").validate(
        json.loads((tmp_path / "script_spec.json").read_text())
    )
    schema("script_result.schema.json").validate(json.loads(job.result.read_text()))
    assert read_result(job.result, job.spec)["curve"] == {"tokens": [40], "loss": [3.0]}


NO_SCHEMA_CAN_SAY = {"broken", "id", "hash", "a trial", "curve", "loss NaN"}


@pytest.mark.parametrize("name", sorted(FILES.keys() - NO_SCHEMA_CAN_SAY))
def test_the_schema_refuses_what_the_reader_refuses(name):
    content, _ = FILES[name]
    content = json.loads(content) if isinstance(content, str) else content
    assert not schema("script_result.schema.json").is_valid(content)


def test_once_the_counts_are_corrected_the_same_result_counts(tmp_path):
    job = ScriptJob(tmp_path, "run.finish(2.5, run.tokens, params=4900)")
    assert job().status == "failed"
    assert outcome_of(job.result, job.spec, {"params": 4900}, 0).status == "completed"
