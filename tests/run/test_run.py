"""The script's side: values, progress, stopping; alone, in a sweep, and with two processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import timeit
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from script_job import ScriptJob
from waiting import PATIENCE

import flops_fit.run
from flops_fit.jobs import hold
from flops_fit.run import MOST_POINTS, PROGRESS, current_experiment

# Trains with its own resume; sends itself a signal at the step that the environment names.
LOOP = """\
import json, os, signal
from flops_fit.run import current_experiment
run = current_experiment(size=8, tokens=4000, batch_items=4, tokens_per_item=10)
saved = run.folder / "state.json"
step, loss = json.loads(saved.read_text()) if saved.exists() else (0, 4.0)
while step < run.steps:
    if step == int(os.environ.get("STEP", -1)):
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
    if run.should_stop:
        saved.write_text(json.dumps([step, loss]))
        run.stopped()
    step, loss = step + 1, loss * 0.99
    run.log(tokens=step * run.batch_items * run.tokens_per_item, loss=loss)
run.finish(loss=loss, tokens=run.tokens, metrics={"accuracy": 0.5, "bad": float("inf")})
"""


@pytest.fixture
def alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    before = {number: signal.getsignal(number) for number in flops_fit.run.STOP_SIGNALS}
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_file_needs_the_standard_library_alone(tmp_path):
    shutil.copy(flops_fit.run.__file__, tmp_path / "copied.py")
    code = "import sys; sys.path.insert(0, '.'); import copied; print({'torch', 'flops_fit'} & set(sys.modules))"
    line = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_run_alone_has_the_values_it_is_given_in_whole_batches(alone):
    run = current_experiment(size=64, tokens=1e6, batch_items=32, tokens_per_item=100)
    assert (run.size, run.steps, run.tokens, run.seed) == (64, 312, 312 * 3200, 0)
    assert (run.folder, run.arguments) == (Path("results/alone"), {})
    assert run.is_main
    assert not run.in_sweep
    assert not run.should_stop
    with pytest.raises(AttributeError, match=r"allowed: current_experiment\(learning_rate=...\)"):
        run.learning_rate  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'step'"):
        run.step  # noqa: B018
    with pytest.raises(TypeError, match="current_experiment: width; allowed: size, tokens, steps"):
        current_experiment(width=3)


def test_a_run_alone_prints_its_result_and_leaves_no_record(alone, capsys):
    run = current_experiment(tokens=100, batch_items=10)
    run.log(tokens=50, loss=3)
    run.finish(loss=2.0, tokens=run.tokens)
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("seconds") >= 0
    assert printed == {"status": "completed", "loss": 2.0, "tokens": 100}
    assert [path.name for path in alone.rglob("*.json")] == [PROGRESS]


def test_in_a_sweep_the_plan_s_values_count_and_a_difference_is_named_once(tmp_path):
    body = (
        "for _ in range(2):\n"
        "    run = current_experiment(size=64, seed=0, learning_rate=0.1, folder='x')\n"
        "assert (run.size, run.learning_rate, run.steps, run.in_sweep) == (8, 0.01, 100, True)\n"
        "assert run.arguments == {'depth': 3}\n"
        "run.finish(1.0, run.tokens)"
    )
    head = "from flops_fit.run import current_experiment\n"
    job = ScriptJob(tmp_path, body, head, arguments={"depth": 3})
    assert job().status == "completed"
    assert (
        job.stderr == "flops-fit: as planned: size = 8 (not 64), learning_rate = 0.01 (not 0.1)\n"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stopped_run_goes_on_where_it_was_with_one_curve(tmp_path, number):
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    expected = ScriptJob(undisturbed, LOOP, head="")()
    job = ScriptJob(tmp_path, LOOP, head="")
    job.environment |= {"STEP": "60", "SIGNAL": str(int(number))}
    assert job().status == "stopped"
    assert job.status == 75
    job.result.unlink()
    job.environment["STEP"] = "-1"
    outcome = job()
    assert (outcome.loss, outcome.curve) == (expected.loss, expected.curve)
    assert outcome.curve["tokens"] == [40 * (step + 1) for step in range(100)]
    assert outcome.metrics == {"accuracy": 0.5, "bad": None}


def test_after_a_kill_the_curve_goes_on_from_the_checkpoint(tmp_path):
    body = "run.log(tokens=40, loss=3)\nrun.log(tokens=80, loss=2)\nrun._write_progress()\nos.kill(os.getpid(), 9)"
    job = ScriptJob(tmp_path, body)
    assert job().status == "failed"
    job = ScriptJob(tmp_path, "run.log(tokens=80, loss=1)\nrun.finish(1, run.tokens)")
    assert job().curve == {"tokens": [40, 80], "loss": [3.0, 1.0]}
    job.result.unlink()
    job = ScriptJob(tmp_path, "run.log(tokens=120, loss=1)\nrun.finish(1, run.tokens)", hash="9")
    assert job().curve["tokens"] == [120]  # another experiment in the same folder


def test_a_script_that_never_asks_is_ended_by_the_signal(tmp_path):
    job = ScriptJob(tmp_path, "os.kill(os.getpid(), 15)\ntime.sleep(600)")
    assert job(asked_to_stop=True).status == "stopped"
    assert job.status == -15


def test_the_script_s_handler_is_called_too(tmp_path):
    body = (
        "import signal\nsignal.signal(15, lambda *_: print('mine', file=sys.stderr))\n"
        "assert not run.signalled\nos.kill(os.getpid(), 15)\nassert run.signalled\nrun.stopped()"
    )
    job = ScriptJob(tmp_path, body)
    assert job().status == "stopped"
    assert job.stderr == "mine\n"


def test_a_held_script_is_told_of_its_launcher_s_death_and_saves(tmp_path):
    body = "run.should_stop\nprint('at work', flush=True)\nwhile not run.should_stop:\n    time.sleep(0.01)\n"
    job = ScriptJob(tmp_path, f"{body}run.stopped()")
    launcher = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    holder = [sys.executable, "-I", "-S", hold.__file__, str(tmp_path / ".lock")]
    with job.start(sys.executable, "-c", launcher, *holder, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.kill()
        process.communicate(timeout=PATIENCE)  # until the orphan has closed its end of the pipe
    job.status = 1
    assert job.outcome().status == "stopped"


def test_the_curve_is_thinned_and_leaves_out_what_is_no_number(alone):
    run = current_experiment()
    for step in range(10_000):
        run.log({"tokens": step, "loss": float("nan") if step == 8192 else 2.0}, lr=0.1)
    points = run._curve()["tokens"]
    assert MOST_POINTS / 2 <= len(points) < MOST_POINTS
    assert len(set(map(int.__sub__, points[1:-1], points[:-2]))) <= 2
    assert 8192 not in points


def test_a_tensor_is_read_once_a_second_and_not_more(alone, monkeypatch):
    class Loss:
        reads = 0

        def detach(self):
            return self

        clone = detach

        def __float__(self):
            Loss.reads += 1
            return 2.0

    now = 100.0
    monkeypatch.setattr(flops_fit.run, "time", SimpleNamespace(monotonic=lambda: now))
    run = current_experiment()
    for step in range(400):
        run.log(tokens=step, loss=Loss())
    assert Loss.reads == 1
    now += 1
    run.log(tokens=400, loss=Loss())
    assert Loss.reads == 401


def test_a_tensor_that_is_changed_in_place_keeps_its_place_in_the_curve(alone):
    run, mean = current_experiment(), torch.zeros(())
    run.log(tokens=1, loss=1.0)  # written at once, and nothing more for a second
    for step in range(3):
        mean.fill_(step + 2)
        run.log(tokens=step + 2, loss=mean)
    assert run._curve()["loss"] == [1.0, 2.0, 3.0, 4.0]


def test_log_and_should_stop_take_no_longer_than_a_dozen_calls_of_nothing(alone):
    def least(call) -> float:
        return min(timeit.repeat(call, time.process_time, number=1000, repeat=20))

    def nothing(**values): ...

    run = current_experiment()
    for _ in range(20_000):
        run.log(tokens=1, loss=2.0)
    assert not run.should_stop
    limit = 12 * least(lambda: nothing(tokens=1, loss=2.0))
    for asked in (lambda: run.log(tokens=1, loss=2.0), lambda: run.should_stop):
        assert least(asked) < limit


DISTRIBUTED = """\
import json, os, signal, sys, time
import torch
import torch.distributed as distributed
from flops_fit.run import current_experiment
distributed.init_process_group("gloo")
rank = distributed.get_rank()
run = current_experiment()
assert run.is_main == (rank == 0)
saved = run.folder / "step"
step = int(saved.read_text()) if saved.exists() else 0
while step < run.steps:
    if step == 30 and rank == 1 and not saved.exists():
        os.kill(os.getpid(), signal.SIGUSR1)
    if run.should_stop:
        steps = [torch.zeros(1) for _ in range(2)]
        distributed.all_gather(steps, torch.tensor([float(step)]))
        assert steps[0] == steps[1], steps
        if run.is_main:
            saved.write_text(str(step))
        distributed.barrier()
        run.stopped()
    value = torch.ones(1)
    distributed.all_reduce(value)
    time.sleep(0.005 + 0.01 * rank)
    step += 1
    run.log(tokens=40 * step, loss=value / 2)
run.finish(loss=value / 2, tokens=run.tokens)
distributed.destroy_process_group()
"""


@pytest.mark.slow  # tests/jobs/test_script.py has two processes, too
def test_two_processes_stop_at_one_step_and_one_of_them_writes(tmp_path):
    job = ScriptJob(tmp_path, DISTRIBUTED, head="", processes=2)
    job.environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launcher += ["--multi_gpu", "--main_process_port", "0", "--quiet", "--no_python"]
    holder = [sys.executable, "-I", "-S", hold.__file__, str(tmp_path / ".lock")]
    outcome = job(*launcher, *holder)
    assert outcome.status == "stopped", job.stderr
    stopped = int((tmp_path / "work" / "step").read_text())
    assert 30 <= stopped < 100
    job.result.unlink()
    outcome = job(*launcher, *holder)
    assert outcome.status == "completed", job.stderr
    assert outcome.world_size == 2
    assert (outcome.loss, outcome.tokens) == (1.0, 4000)
    assert outcome.curve["tokens"] == [40 * (step + 1) for step in range(100)]
    assert re.match(r"2\.", outcome.versions["torch"])
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".script_result")]
