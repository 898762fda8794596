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
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from example_scripts import EXAMPLES, ROOT, SCRIPTS, Example

pytestmark = pytest.mark.scripts
PATIENCE = 600  # seconds, for a busy machine
NEEDS = {
    "transformers' Trainer": pytest.mark.skipif(
        find_spec("transformers") is None, reason="transformers is not installed (the extra hf)"
    )
}
WAYS = ("SIGTERM to the job", "SIGTERM to all", "SIGUSR1", "job killed", "script killed")
CELLS = [
    pytest.param(name, processes, way, marks=NEEDS.get(name, []))
    for way in WAYS
    for processes in (2, 1)
    for name in EXAMPLES
    if (name, processes) != ("numpy by command", 2)
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

    def is_at_work(self) -> bool:
        """Whether the script has taken a step, or has started where it tells nothing of its steps."""
        if "command" in self.example.trainer:
            return bool(self.victims("script"))
        return any(self.work.glob("results/runs/*/script/progress.json"))

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
    while not sweep.is_at_work():
        assert workflow.poll() is None, (sweep.work / "log").read_text()
        assert time.monotonic() < end
        time.sleep(0.05)
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
