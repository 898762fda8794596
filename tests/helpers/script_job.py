"""A user's script of one experiment, run as a job would run it: a spec in, a result out."""

import os
import subprocess
import sys
from pathlib import Path

from waiting import PATIENCE

from flops_fit.jobs.script_files import RESULT, SPEC, ScriptOutcome, ScriptSpec, outcome_of

PARAMS = {"params": 5000, "params_total": 6000}


def script_spec(root: Path, **changed) -> ScriptSpec:
    values = {
        "experiment_id": "train-8-D4000-s0-0123abcd",
        "hash": "0123abcd",
        "size": 8,
        "tokens": 4000,
        "steps": 100,
        "batch_items": 4,
        "tokens_per_item": 10,
        "learning_rate": 0.01,
        "seed": 0,
        "folder": str(root / "work"),
    }
    return ScriptSpec(**values | changed)


class ScriptJob:
    """The script ``body`` of an experiment below ``root``; imports and ``run`` come before it."""

    HEAD = "import os, sys, time\nfrom flops_fit.run import current_experiment\nrun = current_experiment()\n"

    def __init__(self, root: Path, body: str, head: str = HEAD, **changed):
        self.script, self.spec = root / "train.py", script_spec(root, **changed)
        self.script.write_text(head + body + "\n")
        self.result = root / "script_result.json"
        self.spec.write(root / "script_spec.json")
        self.environment = {
            **os.environ,
            SPEC: str(root / "script_spec.json"),
            RESULT: str(self.result),
        }

    def start(self, *before: str, **options) -> subprocess.Popen:
        """Start it, behind the words ``before`` of another program, if any."""
        line = [*before, sys.executable, str(self.script)]
        options = {"env": self.environment, "stderr": subprocess.PIPE, "text": True} | options
        return subprocess.Popen(line, cwd=self.script.parent, **options)

    def __call__(self, *before: str, asked_to_stop: bool = False, **options) -> ScriptOutcome:
        """Run it to its end; ``status`` and ``stderr`` are then known."""
        with self.start(*before, **options) as process:
            self.stderr = process.communicate(timeout=PATIENCE)[1]
            self.status = process.returncode
        return self.outcome(asked_to_stop)

    def outcome(self, asked_to_stop: bool = False, **options) -> ScriptOutcome:
        return outcome_of(self.result, self.spec, PARAMS, self.status, asked_to_stop, **options)
