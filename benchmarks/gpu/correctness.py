"""Parts 1, 2 and 8: the same results as on the CPU, under every option, and with two processes."""

import math
import shutil
import signal
import subprocess
import time

import yaml
from common import (
    ROOT,
    Bench,
    Failed,
    Sweep,
    call,
    curve,
    flops_fit,
    largest_gap,
    params_of,
    small,
    snakemake,
)

RETRY_STATUS = 75
PATIENCE = 600.0
WITHIN = 0.02  # of the plain run's held-out loss, for options that round otherwise
SAME = 1e-3  # relative difference of two loss curves that differ by rounding in fp32
DEMO_BUDGET = 8.1e12


def law(bench: Bench) -> None:
    """1: the doctor, the demo's law on this device and on the CPU, and one loss curve on both."""
    report = call(flops_fit("doctor"), bench.work, accepted=(0, 2)).splitlines()
    wrong = [line for line in report if line.startswith("WRONG")]
    bench.note("doctor", "; ".join(wrong) or "nothing wrong", "flops-fit doctor", not wrong)

    sweep = Sweep(bench, "curve", small(bench))
    (name,) = sweep.ids
    here = curve(sweep.train(name))
    sweep.forget(name)
    gap = largest_gap(here, curve(sweep.train(name, gpus=0)))
    what = f"losses of {bench.scale.steps} steps in fp32, against the CPU's"
    bench.note(what, f"differ by at most {gap:.1e}", "flops-fit train", gap <= SAME)

    preset = "config.yaml" if bench.gpu else "smoke.yaml"
    command = "snakemake --cores all --resources gpu=4"
    there = _demo(bench, preset, "cpu", 0)
    here = _demo(bench, preset, "cuda", 1) if bench.gpu else there
    what = f"N* of config/{preset} at {DEMO_BUDGET:.2g} FLOPs, here and on the CPU"
    if here is None or there is None:
        bench.note(what, "the runs do not determine it", command, False if bench.gpu else None)
        return
    texts = [f"{n:.3g} ({low:.3g} to {high:.3g})" for n, low, high in (here, there)]
    agree = here[1] <= there[2] and there[1] <= here[2]
    bench.note(what, " and ".join(texts), command, agree)


def _demo(bench: Bench, preset: str, device: str, gpus: int) -> tuple[float, float, float] | None:
    """N* of a shipped sweep with its interval, trained on ``device`` by the workflow."""
    from flops_fit.fit import predict
    from flops_fit.fit.result import read_fit

    config = yaml.safe_load((ROOT / "config" / preset).read_text())
    config["resources"] = {"gpus": gpus, "runs_per_gpu": 4 if gpus else 1}
    sources = config["dataset"]["sources"]
    config["dataset"]["sources"] = [s if ":" in s else str(ROOT / s) for s in sources]
    results = snakemake(bench.work / f"demo-{device}", config)
    answer = predict(read_fit(results / "fit.json"), DEMO_BUDGET)
    if not answer.ci:
        return None
    return answer.params, *answer.ci["params"]


def options(bench: Bench) -> None:
    """2: every option trains to the same loss; repeats and resumed runs give the same bits."""
    plain = _loss(bench, "plain")
    again = {"optimizer": {"factory": "flops_fit.optimizer:adamw", "kwargs": {"fused": False}}}
    cases = {
        "bf16": {"precision": "bf16"},
        "fp16": {"precision": "fp16"},
        "compile: true": {"resources": {"gpus": bench.gpus, "compile": True}},
        "activation_checkpointing: true": {
            "resources": {"gpus": bench.gpus, "activation_checkpointing": True}
        },
        "AdamW without its fused step": again,
        "worker processes and pinned transfers": {
            "resources": {"gpus": bench.gpus, "loader_workers": 2}
        },
    }
    for name, changes in cases.items():
        if name == "fp16" and not bench.needs_gpu("fp16"):
            continue
        loss = _loss(bench, name.partition(":")[0].replace(" ", "-"), **changes)
        gap = abs(loss / plain - 1)
        text = f"held-out loss {loss:.4f}, plain {plain:.4f}"
        bench.note(name, text, "flops-fit train", gap <= WITHIN)
    _muon(bench)
    _overflow(bench)
    _deterministic(bench)
    for precision, bound in (("no", 0.0), ("bf16", 0.01)):
        _resume(bench, precision, bound)
    _stop_while_compiling(bench)


def _loss(bench: Bench, name: str, **changes) -> float:
    sweep = Sweep(bench, name, small(bench, **changes))
    loss = sweep.train(sweep.ids[0])["final_loss"]
    return math.nan if loss is None else loss


def _muon(bench: Bench) -> None:
    """Muon and AdamW together, as the demo has them, against the CPU."""
    kwargs = {key: bench.scale.kwargs[key] for key in ("vocab_size", "seq_len")}
    changes = {
        "model": {
            "factory": "flops_fit.examples.gpt:GPT",
            "size_param": "d_model",
            "kwargs": {"n_layers": 2, **kwargs},
        },
        "sizes": {"values": [64 if bench.gpu else 16]},
        "optimizer": {"factory": "flops_fit.examples.gpt:optimizer"},
        "budgets": [1e12 if bench.gpu else 2e8],
        "learning_rate": {"value": 0.02},
    }
    here = _loss(bench, "muon", **changes)
    there = _loss(bench, "muon-cpu", **changes | {"resources": {"gpus": 0}}) if bench.gpu else here
    text = f"held-out loss {here:.4f}, on the CPU {there:.4f}"
    bench.note("Muon with AdamW", text, "flops-fit train", abs(here / there - 1) <= WITHIN)


def _overflow(bench: Bench) -> None:
    """A gradient that overflows fp16 in one step is skipped, and the run goes on."""
    what = "fp16 with an overflow in the middle"
    if not bench.needs_gpu(what):
        return
    at = bench.scale.steps // 2
    config = small(bench, precision="fp16")
    config["model"] |= {
        "factory": "gpu_plugins:Overflowing",
        "kwargs": {**bench.scale.kwargs, "overflow_at": at},
    }
    sweep = Sweep(bench, "overflow", config)
    record = sweep.train(sweep.ids[0])
    losses = curve(record)
    sound = record["status"] == "completed" and losses[-1] < losses[at - 1] < losses[0]
    text = f"{record['status']}; loss {losses[0]:.3f}, {losses[at]:.3f} after it, {losses[-1]:.3f}"
    bench.note(what, text, "flops-fit train", sound)


def _deterministic(bench: Bench) -> None:
    sweep = Sweep(bench, "deterministic", small(bench, deterministic=True, precision="bf16"))
    (name,) = sweep.ids
    curves = [curve(train(name)) for train in (sweep.train, sweep.train_again)]
    same = curves[0] == curves[1]
    text = "the same bits" if same else f"differ by {largest_gap(*curves):.1e}"
    bench.note("deterministic: true, twice in bf16", text, "flops-fit train", same)


def _resume(bench: Bench, precision: str, bound: float) -> None:
    """A run that was stopped with SIGTERM and started again, against one that never stopped.

    A small model, because a checkpoint is written after every step.
    """
    depth = bench.scale.sizes[0]
    tokens = bench.scale.steps * bench.scale.items * bench.scale.kwargs["seq_len"]
    config = small(
        bench,
        precision=precision,
        deterministic=True,
        sizes={"values": [depth]},
        budgets=[6.0 * tokens * params_of(bench.scale, depth)],
    )
    config["resources"] = {"gpus": bench.gpus, "checkpoint_minutes": 0}
    sweep = Sweep(bench, f"stopped-{precision}", config)
    (name,) = sweep.ids
    whole = sweep.train(name)
    sweep.forget(name)
    job = sweep.start(name)
    _wait_for(job, sweep, name, lambda folder: len(list(folder.glob("checkpoints/step-*"))) > 0)
    job.send_signal(signal.SIGTERM)
    status = job.wait(PATIENCE)
    record = sweep.train(name)
    gap = largest_gap(curve(whole), curve(record))
    text = f"stopped with status {status}, resumed at step {record['resumed_at_step']}: "
    text += "the same bits" if gap == 0 else f"differs by {gap:.1e}"
    what = f"resumed in {'fp32' if precision == 'no' else precision}"
    bench.note(
        what, text, "kill -TERM; flops-fit train", gap <= bound and status in (0, RETRY_STATUS)
    )


def _wait_for(job: subprocess.Popen, sweep: Sweep, name: str, ready) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready(sweep.folder / "results" / "runs" / name):
        if job.poll() is not None:
            return
        if time.monotonic() > deadline:
            job.kill()
            raise Failed(f"{sweep.name}: nothing happened for {PATIENCE:.0f} s")
        time.sleep(0.02)


def _stop_while_compiling(bench: Bench) -> None:
    """SIGTERM while the first step compiles: the job ends for a retry, and the retry trains."""
    config = small(bench, resources={"gpus": bench.gpus, "compile": True}, seeds=[1])
    sweep = Sweep(bench, "stopped-compiling", config)
    (name,) = sweep.ids
    cache = sweep.folder / "cache"  # its own, so that there is something to compile
    log = sweep.folder / f"{name}.log"
    job = sweep.start(name, TORCHINDUCTOR_CACHE_DIR=str(cache))
    _wait_for(job, sweep, name, lambda _: cache.exists() or "peak learning rate" in log.read_text())
    time.sleep(1)
    job.send_signal(signal.SIGTERM)
    started = time.monotonic()
    status = job.wait(PATIENCE)
    waited = time.monotonic() - started
    shutil.rmtree(cache, ignore_errors=True)
    loss = sweep.train(name)["final_loss"]
    text = f"status {status} after {waited:.0f} s; the retry ends at {loss:.4f}"
    bench.note(
        "SIGTERM while it compiles", text, "kill -TERM; flops-fit train", status == RETRY_STATUS
    )


def processes(bench: Bench) -> None:
    """8: two processes share each global batch, over NCCL where there are two GPUs, else over gloo."""
    import torch

    two = bench.gpu and torch.cuda.device_count() > 1
    one = Sweep(bench, "one-process", small(bench))
    both = Sweep(bench, "two-processes", small(bench, resources={"processes": 2, "gpus": 2 * two}))
    (name,) = one.ids
    gap = largest_gap(curve(one.train(name)), curve(both.train(name, gpus=2 * two, processes=2)))
    how = "two GPUs, NCCL" if two else "two CPU processes, gloo"
    what = f"losses of {how}, against one process on {bench.device}"
    bound = SAME if bench.gpu else 1e-5
    command = f"flops-fit train --processes 2 --gpus {2 * two}"
    bench.note(what, f"differ by at most {gap:.1e}", command, gap <= bound)
