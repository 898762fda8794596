"""A folder in which a user starts Snakemake, whose jobs run as if on other machines."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from project import REPOSITORY

HERE = Path(__file__).parent
PLUGINS = (
    "snakemake_storage_plugin_fs",
    "snakemake_storage_plugin_s3",
    "snakemake_executor_plugin_cluster_generic",
    "moto",
    "s3fs",
)
# The loss of the sweep, a module of the user. One of the runs is preempted, once.
LOSS = """\
import contextlib
import os
import signal

import torch.nn.functional as F

calls = 0


def loss(outputs, targets):
    global calls
    calls += 1
    marker = os.environ.get("PREEMPTED_ONCE")
    if marker and calls == 30 and not os.path.exists(marker):
        with contextlib.suppress(FileExistsError), open(marker, "x") as file:
            file.write(os.getcwd())
            os.kill(os.getpid(), signal.SIGTERM)
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())
"""
RUNS = 6


def missing() -> list[str]:
    """What this machine lacks for the tests of this folder."""
    programs = [name for name in ("rsync", "unshare", "git") if not shutil.which(name)]
    plugins = [name for name in PLUGINS if importlib.util.find_spec(name) is None]
    return [*programs, *plugins, *(["root"] if os.geteuid() else [])]


class Place:
    """A git repository with the workflow and a sweep below ``root``, named ``name``.

    ``store`` are the options of Snakemake that name the store; ``variables`` are those of its
    environment; ``checkpoints`` is the URL for checkpoints.
    """

    def __init__(self, root: Path, name: str, store: list[str], checkpoints: str, **variables: str):
        self.folder, self.jobs, self.store = root / name, root / f"{name}-jobs", store
        self.results = self.folder / "results"
        self.variables = variables
        (self.folder / "data").mkdir(parents=True)
        self.jobs.mkdir()
        for part in ("workflow", "profiles", "envs"):  # links become files, as in a wheel
            shutil.copytree(REPOSITORY / part, self.folder / part)
        shutil.copy(REPOSITORY / "Snakefile", self.folder)
        shutil.copy(REPOSITORY / "tests/data/text.txt", self.folder / "data/text.txt")
        (self.folder / "myloss.py").write_text(LOSS)
        (self.folder / ".gitignore").write_text("results/\n.snakemake/\n")
        config = yaml.safe_load((REPOSITORY / "config/smoke.yaml").read_text())
        config["loss"]["function"] = "myloss:loss"
        config["dataset"]["sources"] = ["data/text.txt"]
        config["resources"] = {"checkpoint_store": checkpoints}
        (self.folder / "sweep.yaml").write_text(yaml.safe_dump(config))
        for line in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", *line], cwd=self.folder, check=True)

    def run(self, *arguments: str, shared: bool = False, succeeds: bool = True) -> str:
        """What Snakemake prints: with the store, or with a ``shared`` file system in place of it."""
        line = [sys.executable, "-m", "snakemake", *arguments, "--configfile", "sweep.yaml"]
        if not shared:
            line += [*self.store, "--shared-fs-usage", "none"]
        done = self._started(line)
        assert (done.returncode == 0) == succeeds, done.stdout + self.logs()
        return done.stdout

    def run_elsewhere(self, *arguments: str, succeeds: bool = True) -> str:
        """The same, with every job where the project is not."""
        submit = f"{HERE / 'submit.sh'} {self.folder} {self.jobs}"
        line = ["--executor", "cluster-generic", "--jobs", "2", "--job-deploy-sources"]
        line += ["--cluster-generic-submit-cmd", submit]
        line += ["--cluster-generic-status-cmd", str(HERE / "status.sh")]
        line += ["--seconds-between-status-checks", "1"]
        return self.run(*line, *arguments, succeeds=succeeds)

    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        source = str(REPOSITORY / "src")
        return {**os.environ, "PYTHONPATH": source, "PATH": path, **self.variables}

    def verb(self, *arguments: str) -> str:
        """What a command of flops-fit prints here."""
        done = self._started([sys.executable, "-m", "flops_fit", *arguments])
        assert done.returncode == 0, done.stdout
        return done.stdout

    def _started(self, line: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            line,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1500,
            check=False,
        )

    def logs(self) -> str:
        """The last lines of every job that failed."""
        failed = [path for path in self.jobs.glob("*/status") if path.read_text().strip() != "0"]
        return "\n".join(path.with_name("log").read_text()[-3000:] for path in failed)


def counted(output: str) -> list[int]:
    """How many runs the lines on the progress of the sweep have."""
    return [int(n) for n in re.findall(rf"^smoke: (\d) of {RUNS} runs", output, re.MULTILINE)]
