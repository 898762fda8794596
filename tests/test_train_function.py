"""`find_optimal(train_fn=...)`: a function of the caller trains, and all else is as for a script."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from torch import nn

import flops_fit.run
from flops_fit import FlopsFitError, find_optimal
from flops_fit.jobs.launcher import launcher
from flops_fit.report.methods import _recipe_rows
from flops_fit.run import current_experiment

PAGE = (Path(__file__).parents[1] / "docs" / "own_script.md").read_text()
STARTED: list[tuple] = []


def counts(size):
    return {"params": 100 * size, "flops_per_token": 600 * size}


def loss_of(run):
    return 1 + 1 / run.size + 10 / run.tokens**0.5


def train(run):
    STARTED.append((run.size, run.tokens))
    for step in range(run.steps):
        run.log(tokens=(step + 1) * run.batch_items * run.tokens_per_item, loss=2.0)
    run.finish(loss=loss_of(run), tokens=run.tokens, params=100 * run.size)


class Asked:
    """A sweep, asked for as often as a test likes."""

    def __init__(self, folder, capsys):
        self.folder, self.capsys = folder, capsys

    def __call__(self, train_fn=train, **changes):
        """The result; how many runs were ``reused`` and ``trained``, and what was ``said``."""
        STARTED.clear()
        given = {"counts": counts, "sizes": [4, 8], "compute_budgets": [2e6], **changes}
        self.capsys.readouterr()
        try:
            return find_optimal(
                train_fn=train_fn, tokens_per_item=4, batch_size=8, output_dir=self.folder, **given
            )
        finally:
            self.said = self.capsys.readouterr().err
            ended = re.search(r"runs: (\d+) reused from .*, (\d+) trained", self.said)
            self.reused, self.trained = map(int, ended.groups()) if ended else (None, None)


@pytest.fixture
def ask(tmp_path, capsys, monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return Asked(tmp_path, capsys)


def test_each_run_is_trained_with_the_values_of_the_plan_and_recorded(ask):
    result = ask()
    tokens = [e.num_tokens for e in result.plan.experiments]
    assert tokens == [round(2e6 / (600 * size) / 32) * 32 for size in (4, 8)]
    assert list(STARTED) == [(4, tokens[0]), (8, tokens[1])]
    for record, experiment in zip(result.records, result.plan.experiments, strict=True):
        assert record["trained_by"] == "function"
        assert record["verified"] == ["tokens", "params", "processes", "exit status"]
        assert record["final_loss"] == 1 + 1 / record["size_param_value"] + 10 / (
            experiment.num_tokens**0.5
        )
        assert len(record["loss_curve"]["tokens"]) == experiment.steps
        assert record["flops_counted"] == 600 * record["size_param_value"] * experiment.num_tokens
    stored = json.loads((ask.folder / "results.json").read_text())
    assert [record | {"checksum": None} for record in stored] == [
        record | {"checksum": None} for record in result.records
    ]
    assert all(record["checksum"] for record in stored)
    assert flops_fit.run._current is None


def test_only_another_content_or_other_values_train_again(ask):
    factor = [1.0]

    def scaled(run):
        run.finish(factor[0] * loss_of(run), run.tokens)

    ask(scaled)
    ask(scaled)
    assert (ask.reused, ask.trained) == (2, 0)
    ask(scaled, counts={size: counts(size) | {"params_total": 1000 * size} for size in (4, 8)})
    assert (ask.reused, ask.trained) == (2, 0)  # how sizes are counted decides no result
    ask(scaled, compute_budgets=[2e6, 4e6])
    assert (ask.reused, ask.trained) == (2, 2)
    ask(scaled, learning_rate=0.1)
    assert (ask.reused, ask.trained) == (0, 2)
    ask(scaled)
    factor[0] = 2.0
    result = ask(scaled)
    assert "trained with another train_fn; training again" in ask.said
    assert result.records[0]["final_loss"] > 2
    guard = threading.Lock()

    def guarded(run):
        with guard:
            scaled(run)

    for reused, resume in ((0, True), (0, True), (2, "trust")):
        ask(guarded, resume=resume)
        assert ask.reused == reused
    assert "is a lock" in ask.said


LIES = {
    "no finish": (lambda run: None, "ended without run.finish"),
    "a crash": (lambda run: [][1], r"IndexError: list index out of range \(test_train_function.py"),
    "another width": (
        lambda run: run.finish(2.5, run.tokens, params=4),
        "params = 4, and the plan",
    ),
    "a loss below zero": (lambda run: run.finish(-1, run.tokens), "loss = -1; allowed: above zero"),
    "exit 3": (lambda run: sys.exit(3), "ended with status 3 and left no result"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_function_that_lies_or_breaks_ends_the_call_with_the_reason(ask, lie):
    function, reason = LIES[lie]
    with pytest.raises(FlopsFitError, match=f"C2e[+]06-4-s0: .*{reason}"):
        ask(function)
    assert not (ask.folder / "results.json").exists()


def test_what_can_be_kept_of_such_a_run_is_recorded_and_said(ask):
    (record,) = ask(lambda run: run.finish(2.5, run.tokens // 2), sizes=[4]).records
    assert record["notes"] == ["trained on 416 tokens, planned 832"]
    assert (record["tokens_seen"], record["flops_counted"]) == (416, 2400 * 416)
    assert record["notes"][0] in ask.said
    (record,) = ask(lambda run: run.finish(float("nan"), run.tokens), sizes=[4]).records
    assert (record["status"], record["reason"]) == ("diverged", "the loss is nan")

    def breaks_late(run):
        run.finish(2.5, run.tokens)
        raise RuntimeError("late")

    (record,) = ask(breaks_late, sizes=[4]).records
    assert record["notes"] == ["the script ended with status 1 after its result, which is kept"]


def test_a_run_that_fails_is_tried_again_with_its_folder(ask):
    def second_time(run):
        saved = run.folder / "saved"
        if not saved.exists():
            saved.touch()
            raise ConnectionError("lost")
        run.finish(2.5, run.tokens)

    ask(second_time, retries=1)
    assert ask.trained == 2
    assert ask.said.count("ConnectionError: lost") == 2


def test_a_stopped_sweep_goes_on_where_it_was(ask):
    handler = signal.getsignal(signal.SIGTERM)

    def stops(run):
        saved = run.folder / "step"
        first = int(saved.read_text()) if saved.exists() else 0
        STARTED.append((run.size, first))
        for step in range(first, run.steps):
            if run.should_stop:
                saved.write_text(str(step))
                run.stopped()
            run.log(tokens=(step + 1) * 32, loss=2.0)
            if run.size == 8 and step == 1 and first == 0:
                os.kill(os.getpid(), signal.SIGTERM)
        run.finish(2.5, run.tokens)

    with pytest.raises(SystemExit) as ended:
        ask(stops)
    assert ended.value.code == 75
    assert "C2e+06-8-s0: stopped; a new call goes on from here" in ask.said
    assert signal.getsignal(signal.SIGTERM) is handler
    result = ask(stops)
    assert (ask.reused, ask.trained) == (1, 1)
    assert STARTED == [(8, 2)]
    assert result.records[1]["loss_curve"]["tokens"] == [32 * (step + 1) for step in range(13)]


def test_a_result_whose_record_was_not_written_counts(ask, monkeypatch):
    def killed(self, record):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("flops_fit.training.local.ResultsFile.add", killed)
        with pytest.raises(KeyboardInterrupt):
            ask(sizes=[4])
    ask(sizes=[4])
    assert (ask.trained, STARTED) == (1, [])
    ask(sizes=[4], resume=False)
    assert len(STARTED) == 1


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, 10)


def test_n_may_be_that_of_a_model_and_a_table_names_the_sizes(ask):
    def finish(run):
        assert current_experiment(size=1, seed=0) is run
        run.finish(2.5, run.tokens, params=11 * run.size if run.size > 4 else None)

    result = ask(finish, counts=None, model_cls=Net, model_size_param="width", sizes=[4])
    assert result.records[0]["num_params"] == 50
    table = {size: counts(size) for size in (8, 4)}
    plan = ask(finish, counts=table, sizes=None, train=False)
    assert [e.size_param_value for e in plan.experiments] == [4, 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts": None}, "allowed: exactly one of counts and model_cls"),
        ({"model_cls": Net, "model_size_param": "width"}, "exactly one of counts and model_cls"),
        ({"dataset": [1]}, "dataset: cannot be combined with train_fn"),
        ({"precision": "bf16"}, "precision: cannot be combined with train_fn"),
        ({"counts": lambda size: {"params": 3}}, "size 4: flops_per_token: missing"),
        ({"counts": {4: counts(4)}}, "counts: the size 8 is missing; it has 4"),
        ({"train_fn": "train"}, "train_fn: 'train'; allowed: a function"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(ask, changes, message):
    with pytest.raises(FlopsFitError, match=message):
        ask(**changes)
    assert not STARTED


@pytest.mark.seconds
def test_the_example_of_the_page_runs_and_its_law_is_fitted(tmp_path, monkeypatch):
    (code,) = re.findall(r"<!-- test: sweep.py -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "sweep"}
    exec(compile(code, "sweep.py", "exec"), names)
    result = names["result"]
    assert [record["status"] for record in result.records] == ["completed"] * 12
    assert result.law.data.n_runs == 12
    assert result.predict(1e8).verdict in ("trust", "provisional")
    rows = dict(_recipe_rows(result.records, None))
    assert rows["Model and shape rule"] == "built by sweep:train; only the size changes"
    assert rows["Schedule"] == "decided by the script"


TWO = """\
import sys
import torch
from flops_fit import find_optimal

def train(run):
    from accelerate import Accelerator
    accelerator = Accelerator()
    total = accelerator.reduce(torch.tensor([1.0 + accelerator.process_index]))
    assert not run.should_stop
    run.finish(total.item(), run.tokens)

counts = {4: {"params": 400, "flops_per_token": 2400}}
result = find_optimal(train_fn=train, counts=counts, compute_budgets=[2e6], output_dir=sys.argv[1])
assert [r["final_loss"] for r in result.records] == [3.0]
assert result.records[0]["processes"] == 2
"""


@pytest.mark.slow
def test_two_processes_train_one_run_together(tmp_path):
    (tmp_path / "sweep.py").write_text(TWO)
    line = [*launcher(2, 1, 0), str(tmp_path / "sweep.py"), str(tmp_path / "out")]
    for trained in (1, 0):
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
        done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        assert f"{1 - trained} reused from {tmp_path}/out/results.json, {trained} trained" in (
            done.stderr
        )
