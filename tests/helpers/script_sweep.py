"""A planned sweep of a user's own script, whose runs are started as jobs start them."""

import json
import os
import subprocess
import sys
from pathlib import Path

from waiting import PATIENCE

from flops_fit.config.complete import complete_config
from flops_fit.experiment.places import run_folder, spec_file
from flops_fit.plan.planner import make_plan

HEAD = "import os, signal, sys, time\nfrom flops_fit.run import current_experiment\nrun = current_experiment()\n"
GOOD = "run.finish(loss=2.5, tokens=run.tokens, params=100 * run.size)"
CONFIG = {
    "name": "own",
    "trainer": {"command": [sys.executable, "train.py"], "tokens_per_item": 10},
    "counts": {"table": {8: {"params": 800, "flops_per_token": 4800}}},
    "budgets": [1e7],
    "sizes": {"values": [8]},
    "batch": {"value": 40},
}


class ScriptSweep:
    """The sweep of ``config`` (`CONFIG` with changed sections) below ``root``; ``body`` is the script."""

    def __init__(self, root: Path, body: str = GOOD, head: str = HEAD, **changes):
        self.root, self.results = root, root / "results"
        (root / "train.py").write_text(head + body + "\n")
        raw = {**CONFIG, **changes}
        self.config = complete_config(raw)
        self.plan = make_plan(self.config, self.results, [str(root)])
        self.id = self.plan.experiments[0].experiment_id
        self.folder = run_folder(self.results, self.id)

    def line(self, *options: str) -> list[str]:
        spec, out = spec_file(self.results, self.id), self.folder / "result.json"
        places = ["--spec", str(spec), "--out", str(out), "--results", str(self.results)]
        return [sys.executable, "-m", "flops_fit", "train", *places, *options]

    def start(self, *options: str, **variables: str) -> subprocess.Popen:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        return subprocess.Popen(
            self.line(*options),
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def train(self, *options: str, **variables: str) -> int:
        """Run the first experiment to the end of its job; ``said`` is then what it printed."""
        process = self.start(*options, **variables)
        self.said = process.communicate(timeout=PATIENCE)[0]
        return process.returncode

    def read(self, name: str) -> dict | None:
        path = self.folder / name
        return json.loads(path.read_text()) if path.exists() else None

    @property
    def record(self) -> dict | None:
        return self.read("record.json")

    @property
    def failure(self) -> str | None:
        failure = self.read("failure.json")
        return failure and failure["reason"]
