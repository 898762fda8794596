"""Part 6: several small runs on one GPU, by turns and through MPS."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from common import Bench, Failed, Sweep, call, small

from flops_fit.jobs.mps import CONTROL, mps_runs
from flops_fit.plan.nvidia_smi import ask

LIMIT = 900.0  # seconds of one measurement


def sharing(bench: Bench) -> None:
    """6: runs per hour on one GPU for 1, 2, 4 and 8 runs at a time."""
    widths, shares = ((64, 128, 256), (1, 2, 4, 8)) if bench.gpu else ((16,), (1, 2))
    for width in widths:
        for share in shares:
            _measure(bench, width, share, "in turns" if bench.gpu else "plain processes")
    if not bench.needs_gpu("runs that share a GPU through MPS"):
        return
    with _mps(bench) as runs:
        for width in widths if runs else ():
            for share in shares[1:]:
                _measure(bench, width, share, "MPS")


def _measure(bench: Bench, width: int, share: int, how: str) -> None:
    """Train twice as many runs as may share the device, all started at once."""
    kwargs = {key: bench.scale.kwargs[key] for key in ("vocab_size", "seq_len")}
    steps, items = (800, 16) if bench.gpu else (8, 4)
    params = 24 * width**2 + kwargs["vocab_size"] * width
    config = small(
        bench,
        model={
            "factory": "flops_fit.examples.gpt:GPT",
            "size_param": "d_model",
            "kwargs": {"n_layers": 2, **kwargs},
        },
        optimizer={"factory": "flops_fit.examples.gpt:optimizer"},
        sizes={"values": [width]},
        batch={"value": items * kwargs["seq_len"]},
        budgets=[6.0 * params * steps * items * kwargs["seq_len"]],
        limits={"min_steps": 1, "max_epochs": 1000},
        seeds=list(range(2 * share)),
        resources={"gpus": bench.gpus, "runs_per_gpu": share if bench.gpu else 1},
    )
    sweep = Sweep(bench, f"share-{width}-{share}-{how.replace(' ', '-')}", config)
    only = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}
    started = time.perf_counter()
    jobs = [sweep.start(name, **(only if bench.gpu else {})) for name in sweep.ids]
    most = 0
    try:
        while any(job.poll() is None for job in jobs):
            if time.perf_counter() - started > LIMIT:
                raise Failed(f"{sweep.name}: more than {LIMIT:.0f} s")
            if bench.gpu and how != "MPS":
                most = max(most, _processes_on_gpu(only["CUDA_VISIBLE_DEVICES"]))
            time.sleep(0.5)
    finally:
        for job in jobs:
            if job.poll() is None:
                job.terminate()
    hours = (time.perf_counter() - started) / 3600
    failed = [job.returncode for job in jobs if job.returncode]
    text = f"{len(jobs) / hours:.0f} runs per hour"
    text += f", at most {most} on the GPU" if most else ""
    text += f"; {len(failed)} failed" if failed else ""
    what = f"d = {width}, {share} at a time, {how}"
    bench.note(what, text, "flops-fit train", not failed and most <= share)


def _processes_on_gpu(gpu: str) -> int:
    """The processes that compute on ``gpu``; 0 where a container does not show them."""
    answer = ask(f"--id={gpu}", "--query-compute-apps=pid", "--format=csv,noheader")
    lines = answer.printed.split() if answer else []
    return len({line for line in lines if line.isdigit()})


@contextmanager
def _mps(bench: Bench) -> Iterator[bool]:
    """MPS for a while, unless it runs here anyway; yields whether it runs."""
    command = f"{CONTROL} -d"
    if mps_runs():
        yield True
        return
    if shutil.which(CONTROL) is None:
        bench.note("MPS", f"{CONTROL} is not installed", command)
        yield False
        return
    places = {"CUDA_MPS_PIPE_DIRECTORY": "pipe", "CUDA_MPS_LOG_DIRECTORY": "log"}
    for variable, name in places.items():
        folder = bench.work / "mps" / name
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[variable] = str(folder)
    try:
        call([CONTROL, "-d"], bench.work)
    except Failed as error:
        bench.note("MPS", f"not allowed here: {error}", command)
    try:
        yield mps_runs()
    finally:
        subprocess.run([CONTROL], input="quit\n", text=True, capture_output=True, check=False)
        for variable in places:
            del os.environ[variable]
