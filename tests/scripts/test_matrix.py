"""The scripts of ``examples/scripts`` as trainers of real sweeps, each killed in every way.

Through the real Snakemake: a run that was killed goes on, gives the same bits as an undisturbed one,
and no run is trained twice.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.scripts
ROOT = Path(__file__).parents[2]
SCRIPTS, TEXT = ROOT / "examples" / "scripts", ROOT / "tests" / "data" / "text.txt"
PATIENCE = 300


@dataclass(frozen=True)
class Example:
    """A script, the section ``trainer`` of its sweep, and the FLOPs that take some seconds."""

    script: str
    trainer: dict
    budget: float
    batch: int
    params: tuple[int, int]  # of the two sizes

    @property
    def config(self) -> dict:
        by_size = {
            size: {"params": params, "flops_per_token": 6000 * size}
            for size, params in zip((8, 16), self.params, strict=True)
        }
        return {
            "name": "own",
            "trainer": self.trainer,
            "counts": {"table": by_size},
            "budgets": [self.budget],
            "sizes": {"values": [8, 16]},
            "batch": {"value": self.batch},
            "learning_rate": {"value": 0.01},
        }


def by_script(name: str, *arguments: str, tokens_per_item: int) -> dict:
    script = str(SCRIPTS / name)
    return {"script": script, "arguments": list(arguments), "tokens_per_item": tokens_per_item}


RESUME = ["--text", str(TEXT), "--out_dir", "{folder}", "--n_embd", "{size}", "--seed", "{seed}"]
RESUME += ["--max_iters", "{steps}", "--batch_size", "{batch_items}", "--save_every", "20"]
RESUME += ["--learning_rate", "{learning_rate}"]
GPT = ["--layers", "1", "--seq_len", "32", "--source", str(TEXT), "--data", "results/gpt"]
EXAMPLES = {
    "plain loop": Example(
        "gpt_loop.py",
        by_script("gpt_loop.py", *GPT, "--heldout", "2048", tokens_per_item=32),
        1.5e10,
        512,
        (12 * 8**2 + 128 * 8, 12 * 16**2 + 128 * 16),
    ),
    "Hugging Face": Example(
        "hf_trainer.py",
        by_script("hf_trainer.py", "--text", str(TEXT), tokens_per_item=64),
        1.5e10,
        512,
        (6184, 16464),
    ),
    "its own resume": Example(
        "own_resume.py",
        by_script("own_resume.py", *RESUME, tokens_per_item=64),
        3e10,
        1024,
        (4784, 10080),
    ),
    "numpy by command": Example(
        "numpy_mlp.py",
        {"command": [sys.executable, str(SCRIPTS / "numpy_mlp.py"), "--text", str(TEXT)]},
        1.5e10,
        64,
        (1024 + 193 * 8, 1024 + 193 * 16),
    ),
}
NEEDS = {
    "Hugging Face": pytest.mark.skipif(
        find_spec("transformers") is None, reason="transformers is not installed (the extra hf)"
    )
}
WAYS = ("SIGTERM to the job", "SIGTERM to all", "SIGUSR1", "job killed", "script killed")
CELLS = [(name, processes, way) for name in EXAMPLES for processes in (1, 2) for way in WAYS]
CELLS = [
    pytest.param(*cell, marks=NEEDS.get(cell[0], []))
    for cell in CELLS
    if cell[:2] != ("numpy by command", 2)
]


class Sweep:
    """The sweep of an example in the folder ``work``, trained with so many ``processes``."""

    def __init__(self, work: Path, example: Example, processes: int):
        self.work, self.example, self.processes = work, example, processes
        work.mkdir()
        config = {**example.config, "resources": {"processes": processes}}
        (work / "sweep.yaml").write_text(yaml.safe_dump(config))

    def start(self) -> subprocess.Popen:
        line = [sys.executable, "-m", "snakemake", "--until", "collect_runs", "--cores", "2"]
        line += ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(self.work)]
        line += ["--configfile", "sweep.yaml", "--retries", "2"]
        with (self.work / "log").open("w") as log:
            return subprocess.Popen(
                line,
                cwd=self.work,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
            )

    def results(self) -> dict[str, dict]:
        records = json.loads((self.work / "results/own/results.json").read_text())
        return {record["experiment_id"]: record for record in records}

    def victims(self, what: str) -> list[int]:
        """Processes of the first run at work: its ``job``, its ``script``, or ``all`` of them."""
        jobs = [pid for pid, line in processes() if "flops_fit train" in line and self._here(pid)]
        if not jobs:
            return []
        tree = [jobs[0], *descendants(jobs[0])]
        if what != "script":
            return tree[:1] if what == "job" else tree
        lines = dict(processes())
        return [p for p in tree if lines.get(p, "").split(" ")[1:2] == [self._script()]][:1]

    def _script(self) -> str:
        return str(SCRIPTS / self.example.script)

    def _here(self, pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/cwd").resolve() == self.work.resolve()
        except OSError:
            return False


def processes() -> Iterator[tuple[int, str]]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield int(path.parent.name), path.read_text().replace("\0", " ").strip()
        except OSError:
            continue


def descendants(process: int) -> list[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    pending, below = [process], []
    while pending:
        children = parents.get(pending.pop(), [])
        pending += children
        below += children
    return below


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The records of an example that nobody kills, by its name and number of processes."""
    known: dict[tuple[str, int], dict] = {}

    def records(name: str, processes: int) -> dict[str, dict]:
        if (name, processes) not in known:
            work = tmp_path_factory.mktemp("undisturbed") / "work"
            sweep = Sweep(work, EXAMPLES[name], processes)
            assert sweep.start().wait(PATIENCE) == 0, (work / "log").read_text()
            known[name, processes] = sweep.results()
        return known[name, processes]

    return records


@pytest.mark.parametrize(("name", "processes", "way"), CELLS)
def test_a_killed_run_goes_on_and_gives_the_same_bits(tmp_path, undisturbed, name, processes, way):
    wanted = undisturbed(name, processes)
    sweep = Sweep(tmp_path / "work", EXAMPLES[name], processes)
    workflow = sweep.start()
    end = time.monotonic() + PATIENCE
    while not sweep.victims("script"):
        assert workflow.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(3)  # into its steps, after it has imported what it needs
    what, number = {
        "SIGTERM to the job": ("job", signal.SIGTERM),
        "SIGTERM to all": ("all", signal.SIGTERM),
        "SIGUSR1": ("job", signal.SIGUSR1),
        "job killed": ("job", signal.SIGKILL),
        "script killed": ("script", signal.SIGKILL),
    }[way]
    victims = sweep.victims(what)
    assert victims, "it had ended already"
    for victim in victims:
        os.kill(victim, number)
    assert workflow.wait(PATIENCE) == 0, (sweep.work / "log").read_text()
    assert "Trying to restart job" in (sweep.work / "log").read_text()
    results = sweep.results()
    assert {*results} == {*wanted}
    for experiment_id, record in results.items():
        assert record["final_loss"] == wanted[experiment_id]["final_loss"]
        assert record["status"] == "completed"
        assert "tokens" in record["verified"]
        assert record["processes"] == processes
    assert sweep.start().wait(PATIENCE) == 0
    assert "train_run" not in (sweep.work / "log").read_text()
