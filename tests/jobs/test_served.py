"""Jobs that are forked from the server of their workflow: the same runs, stopped in the same ways."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from children import children_with
from planned_job import config_of
from waiting import PATIENCE, until

from flops_fit.config.complete import complete_config
from flops_fit.jobs import served, surroundings
from flops_fit.jobs.killed import KILLED
from flops_fit.plan.planner import make_plan
from flops_fit.store.locks import lock_if_free

pytestmark = [
    pytest.mark.seconds,
    pytest.mark.skipif(not served.is_possible(), reason="needs Linux 5.3 or newer"),
]
MODULE = """\
import json, os, signal, time
from pathlib import Path
import torch
from torch import nn
from torch.utils.data import TensorDataset

HERE = Path(__file__).parent


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x):
        if self.training and "FLOPS_FIT_PROCESSES" in os.environ:
            handler = signal.getsignal(signal.SIGTERM)
            about = [os.getpid(), os.getppid(), os.getpgid(0)]
            (HERE / "about.part").write_text(json.dumps(about))
            (HERE / "about.part").replace(HERE / "about")
            if (HERE / "bug").exists():
                raise ZeroDivisionError("a bug of mine")
            while (HERE / "wait").exists() and not handler.__self__.signal:
                time.sleep(0.01)
        return self.layers(x)


def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(240, 4, generator=generator)
    return TensorDataset(inputs, inputs.argmax(1))
"""
BITS = ("final_loss", "final_loss_se", "loss_curve", "tokens_seen", "steps_done", "status")


class Sweep:
    """One planned run in a folder of its own, and the server from which it is forked."""

    def __init__(self, root: Path):
        self.root, self.log = root, root / "log"
        (root / "servedplugin.py").write_text(MODULE)
        config = config_of("served", "servedplugin")
        (experiment,) = make_plan(config, root / "results", [str(root)]).experiments
        self.id = experiment.experiment_id
        self.run = root / "results" / "runs" / self.id
        self.line = self.line_of(self.id)
        self.server: psutil.Process | None = None

    def serve(self) -> None:
        """Start a server unless one is at work, and a first job, whose environment it takes."""
        before = children_with("flops_fit.jobs.server")
        if self.server not in before:
            os.environ[served.SERVER] = ""
            served.start_server()
            after = children_with("flops_fit.jobs.server")
            (self.server,) = (process for process in after if process not in before)
            assert self.start().wait(PATIENCE) == 0

    def line_of(self, run: str) -> list[str]:
        """The command that trains ``run``."""
        results = self.root / "results"
        line = [sys.executable, "-m", "flops_fit", "train", "--results", str(results)]
        line += ["--spec", str(results / ".plan" / "specs" / f"{run}.json")]
        return [*line, "--out", str(results / "runs" / run / "result.json")]

    def forget(self) -> None:
        """As if nothing had been trained yet."""
        shutil.rmtree(self.run, ignore_errors=True)
        for name in ("about", "bug", "wait", "log"):
            (self.root / name).unlink(missing_ok=True)

    def start(self, *orders: str, line=None, **variables: str) -> subprocess.Popen:
        """Start the job, or that of ``line``, in a process group of its own, as a shell does."""
        for order in orders:
            (self.root / order).touch()
        environment = {**os.environ, **variables}
        environment.pop("PYTEST_CURRENT_TEST", None)  # every job has the same
        with self.log.open("ab") as log:
            return subprocess.Popen(
                line or self.line,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                env=environment,
            )

    def about(self, name: str) -> float:
        """What the run notes in its first step."""
        until((self.root / "about").exists)
        pid, parent, group = json.loads((self.root / "about").read_text())
        return {"pid": pid, "parent": parent, "group": group}[name]

    def begun(self) -> subprocess.Popen:
        """Start the job and let it wait in its first step, until it is asked to stop."""
        front = self.start("wait")
        assert self.about("parent") == self.server.pid
        return front

    def record(self) -> dict:
        return json.loads((self.run / "record.json").read_text())

    def gone(self) -> bool:
        """Whether the job is gone, with its lock."""
        with lock_if_free(self.run) as free, contextlib.suppress(psutil.NoSuchProcess):
            job = psutil.Process(int(self.about("pid")))
            return free and job.status() == psutil.STATUS_ZOMBIE  # its parent is gone, too
        return free


def asks(front: int) -> bool:
    """Whether a front has opened a socket: from then on it ends in words when it is asked to stop."""
    with contextlib.suppress(FileNotFoundError):
        opened = [os.readlink(link) for link in Path(f"/proc/{front}/fd").iterdir()]
        return any(name.startswith("socket:") for name in opened)
    return False


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "servedplugin", raising=False)
        patch.setattr(sys, "path", [*sys.path])
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            patch.setenv(name, "1")  # as Snakemake does
        patch.setenv(served.SERVER, "")
        sweep = Sweep(tmp_path_factory.mktemp("served"))
        sweep.serve()
        yield sweep
        with contextlib.suppress(psutil.NoSuchProcess):
            sweep.server.terminate()
            sweep.server.wait(PATIENCE)


@pytest.fixture
def sweep(shared):
    shared.serve()  # again, where a test has killed the server
    shared.forget()
    return shared


@pytest.fixture(scope="module")
def truth(shared):
    """The record of the run that was started the ordinary way."""
    shared.forget()
    assert shared.start(FLOPS_FIT_SERVER="0").wait(PATIENCE) == 0
    assert shared.about("parent") != shared.server.pid
    return shared.record()


@pytest.fixture
def ends_well(sweep, truth):
    """The same command again ends the run with the bits of one that nothing befell."""

    def check(resumed: bool = True) -> None:
        (sweep.root / "wait").unlink(missing_ok=True)
        assert sweep.start().wait(PATIENCE) == 0, sweep.log.read_text()
        record = sweep.record()
        assert [record[key] for key in BITS] == [truth[key] for key in BITS]
        assert bool(record["resumed_at_step"]) == resumed
        assert {p.name for p in sweep.run.iterdir()} == {"record.json", "result.json", ".lock"}

    return check


def test_a_forked_run_has_the_bits_of_a_started_one_and_its_log(sweep, truth, ends_well):
    ends_well(resumed=False)
    assert sweep.about("parent") == sweep.server.pid
    assert f"{sweep.id}: Net with N = " in sweep.log.read_text()
    assert 0 < sweep.record()["cpu_seconds"] < truth["cpu_seconds"] / 2
    assert sweep.record()["peak_memory_bytes"] > 1e7


def test_runs_on_a_trunk_are_forked_although_each_has_another_before_it(sweep):
    schedule = {"kind": "trunk", "warmup_tokens": 16}
    config = config_of("ladder", "servedplugin") | {"budgets": [1e5, 2e5], "schedule": schedule}
    plan = make_plan(complete_config(config), sweep.root / "results", [str(sweep.root)])
    before: list[str] = []
    for experiment in sorted(plan.experiments, key=lambda e: e.num_tokens):
        (sweep.root / "about").unlink(missing_ok=True)
        line = sweep.line_of(experiment.experiment_id)
        after = [f"results/runs/{run}/result.json" for run in before]
        front = sweep.start(line=[*line, "--after", *after])
        assert front.wait(PATIENCE) == 0, sweep.log.read_text()
        assert sweep.about("parent") == sweep.server.pid
        folder = sweep.root / "results" / "runs" / experiment.experiment_id
        record = json.loads((folder / "record.json").read_text())
        assert [record["after"], record["started_from"]] == 2 * (before or [None])
        before = [experiment.experiment_id]


def test_the_check_of_a_sweep_is_forked_from_the_server_of_its_runs(sweep):
    results = sweep.root / "results"
    plans = (results / ".plan" / "plans").iterdir()
    plan = next(plan for plan in plans if sweep.id in plan.read_text())
    line = [sys.executable, "-m", "flops_fit", "check", "--plan", plan, "--results", results]
    assert sweep.start(line=line).wait(PATIENCE) == 0
    assert sweep.about("parent") == sweep.server.pid
    assert "the sweep can be trained" in sweep.log.read_text()
    assert sweep.start("bug", line=line).wait(PATIENCE) == 2
    assert "flops-fit: error: servedplugin" in sweep.log.read_text()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_to_the_front_reaches_the_run_which_saves(sweep, ends_well, name):
    front = sweep.begun()
    front.send_signal(getattr(signal, name))
    assert front.wait(PATIENCE) == 75
    assert "stopped on SIGTERM at step" in sweep.log.read_text()
    assert sweep.gone()
    ends_well()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_to_the_group_of_the_job_reaches_the_run_itself(sweep, ends_well, name):
    front = sweep.begun()
    assert sweep.about("group") == front.pid
    os.killpg(front.pid, getattr(signal, name))
    assert front.wait(PATIENCE) == 75
    assert sweep.gone()
    ends_well()


def test_a_signal_to_the_run_alone_is_its_status(sweep, ends_well):
    front = sweep.begun()
    os.kill(int(sweep.about("pid")), signal.SIGUSR1)
    assert front.wait(PATIENCE) == 75
    assert "stopped on SIGUSR1 at step" in sweep.log.read_text()
    ends_well()


@pytest.mark.parametrize("group", [False, True])
def test_a_front_that_is_killed_takes_its_run_along_which_saves(sweep, ends_well, group):
    front = sweep.begun()
    if group:
        os.killpg(front.pid, signal.SIGKILL)
        assert front.wait(PATIENCE) == -signal.SIGKILL
        until(sweep.gone)
        return ends_well(resumed=False)
    front.kill()
    front.wait(PATIENCE)
    until(sweep.gone)
    ends_well()


def test_a_run_that_is_killed_is_reported_and_the_server_goes_on(sweep, ends_well):
    front = sweep.begun()
    os.kill(int(sweep.about("pid")), signal.SIGKILL)
    assert front.wait(PATIENCE) == 128 + signal.SIGKILL
    assert sweep.log.read_text().strip().splitlines()[-1] == f"flops-fit: {sweep.id}: {KILLED}"
    assert json.loads((sweep.run / "failure.json").read_text())["reason"] == KILLED
    ends_well(resumed=False)
    assert sweep.about("parent") == sweep.server.pid


def test_an_error_of_the_plugin_is_a_traceback_in_its_log_and_status_1(sweep, ends_well):
    assert sweep.start("bug").wait(PATIENCE) == 1
    assert "ZeroDivisionError: a bug of mine" in sweep.log.read_text()
    assert "a bug of mine" in json.loads((sweep.run / "failure.json").read_text())["reason"]
    (sweep.root / "bug").unlink()
    ends_well(resumed=False)


def test_a_second_front_waits_for_the_run_of_the_first(sweep, truth):
    first, second = sweep.begun(), sweep.start()
    until(lambda: "another trainer is at work; waiting" in sweep.log.read_text())
    (sweep.root / "wait").unlink()
    assert (first.wait(PATIENCE), second.wait(PATIENCE)) == (0, 0)
    assert sweep.record()["final_loss"] == truth["final_loss"]


def test_a_front_that_is_stopped_before_the_fork_leaves_no_run(sweep):
    sweep.server.suspend()
    try:
        front = sweep.start()
        until(lambda: asks(front.pid))
        front.terminate()
        assert front.wait(PATIENCE) == 75
    finally:
        sweep.server.resume()
    assert "stopped on SIGTERM before the run started" in sweep.log.read_text()
    until(lambda: not sweep.server.children())
    assert {p.name for p in sweep.run.iterdir()} <= {".lock"}


def test_other_surroundings_are_named_and_lead_to_the_ordinary_way(sweep, capfd):
    assert served.run_served(sweep.line, {**os.environ, "ANOTHER": "1"}) is None
    assert "not forked from the server: the environment of the job differ" in capfd.readouterr().err
    before = os.umask(0o077)
    try:
        assert served.run_served(sweep.line, os.environ) is None
    finally:
        os.umask(before)
    assert "the environment, the status of the job differ" in capfd.readouterr().err


def test_an_edited_source_is_another_product(tmp_path, monkeypatch):
    monkeypatch.setattr(surroundings, "PACKAGE", tmp_path)
    (tmp_path / "trainer.py").write_text("1")
    before = surroundings.surroundings({})
    assert surroundings.differing(before, surroundings.surroundings({})) == []
    (tmp_path / "trainer.py").write_text("12")
    assert surroundings.differing(before, surroundings.surroundings({})) == ["flops-fit"]


@pytest.mark.parametrize("path", ["0", "/nowhere/jobs", "stale"])
def test_without_a_server_there_is_nothing_to_ask(sweep, tmp_path, monkeypatch, capfd, path):
    if path == "stale":
        path = str(tmp_path / "jobs")
        with served.socket.socket(served.socket.AF_UNIX, served.socket.SOCK_SEQPACKET) as stale:
            stale.bind(path)
    monkeypatch.setenv(served.SERVER, path)
    assert served.run_served(sweep.line, os.environ) is None
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("ending", ["pass", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_server_ends_with_its_workflow_and_leaves_nothing(tmp_path, ending):
    code = "import os, signal\nfrom flops_fit.jobs.served import SERVER, start_server\n"
    code += f"start_server()\nprint(os.environ[SERVER], flush=True)\n{ending}\n"
    environment = {**os.environ, served.SERVER: "", "XDG_RUNTIME_DIR": str(tmp_path)}
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    folder = Path(done.stdout.strip()).parent
    until(lambda: not folder.exists())

    def serves(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            return str(folder) in process.cmdline()
        return False

    until(lambda: not any(map(serves, psutil.process_iter())))


def test_a_server_is_private_and_never_in_a_folder_whose_name_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setenv(served.SERVER, "")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("x" * 100)))
    (tmp_path / ("x" * 100)).mkdir()
    started = []
    monkeypatch.setattr(served, "END_SECONDS", PATIENCE)
    monkeypatch.setattr(served.atexit, "register", lambda *call: started.append(call))
    served.start_server()
    ((end, server, folder),) = started
    assert Path(folder).stat().st_mode & 0o777 == 0o700
    assert len(os.environ[served.SERVER]) < 108
    assert list((tmp_path / ("x" * 100)).iterdir()) == []
    end(server, folder)
    assert server.returncode is not None
    assert not Path(folder).exists()


def test_a_server_that_is_killed_lets_its_run_save_and_the_next_one_starts(sweep, ends_well):
    front = sweep.begun()
    sweep.server.kill()
    assert front.wait(PATIENCE) == 75
    assert "stopped on SIGTERM at step" in sweep.log.read_text()
    assert sweep.gone()
    ends_well()
    assert sweep.about("parent") != sweep.server.pid
