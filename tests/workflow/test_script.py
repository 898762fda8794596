"""A user's own script as the trainer of a sweep, through the real workflow."""

import json
import subprocess

import pytest
import yaml
from project import TABLES, Project

SCRIPT = """\
import json
import os
import signal

from flops_fit.run import current_experiment

from curve import loss_at

run = current_experiment(size=4)
saved = run.folder / "saved.json"
state = json.loads(saved.read_text()) if saved.exists() else {"step": 0, "loss": 5.0, "starts": 0}
state["starts"] += 1
assert run.should_stop is False  # and from here on signals are noted
while state["step"] < run.steps:
    state["step"] += 1
    state["loss"] = loss_at(state["loss"], run.size)
    run.log(tokens=state["step"] * run.batch_items * run.tokens_per_item, loss=state["loss"])
    if run.size == 4 and state["step"] == 10 and state["starts"] == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    if run.should_stop:
        saved.write_text(json.dumps(state))
        run.stopped()
metrics = {"starts": state["starts"]}
run.finish(loss=state["loss"], tokens=run.tokens, params=100 * run.size, metrics=metrics)
"""
CURVE = "def loss_at(loss, size):\n    return loss - 0.01 * (loss - 1 - 1 / size)\n"
CONFIG = {
    "name": "own",
    "trainer": {"script": "train.py", "arguments": ["--n_embd", "{size}"], "tokens_per_item": 4},
    "counts": {"function": "counts:counts"},
    "budgets": [2e6],
    "sizes": {"values": [4, 8]},
    "batch": {"value": 32},
    "learning_rate": {"value": 0.003},
    "fit": {"bootstrap": 0},
}


@pytest.mark.seconds
def test_a_script_is_trained_stopped_resumed_and_never_twice(tmp_path):
    project = Project.create(tmp_path / "root")
    (project.work / "train.py").write_text(SCRIPT)
    (project.work / "curve.py").write_text(CURVE)
    (project.work / "counts.py").write_text(
        "def counts(size):\n    return {'params': 100 * size, 'flops_per_token': 600 * size}\n"
    )
    (project.work / "sweep.yaml").write_text(yaml.safe_dump(CONFIG))
    line = project.command(*TABLES, "--retries", "1")
    done = subprocess.run(
        line,
        cwd=project.root,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    table = json.loads((project.results / "own/results.json").read_text())
    assert [r["experiment_id"].rsplit("-", 1)[0] for r in table] == [
        "train-size4-D832-s0",
        "train-size8-D416-s0",
    ]
    assert [r["metrics"]["starts"] for r in table] == [2, 1]
    for record in table:
        loss = 5.0
        for _ in range(record["steps_done"]):
            loss -= 0.01 * (loss - 1 - 1 / record["size_param_value"])
        assert record["final_loss"] == loss  # to the bit, stopped or not
        assert record["tokens_seen"] == record["num_tokens"]
        assert record["verified"] == ["tokens", "params", "processes", "exit status"]
    (project.work / "train.py").write_text(f"# a comment\n{SCRIPT}")
    assert project.dry_run(*TABLES).jobs == []
