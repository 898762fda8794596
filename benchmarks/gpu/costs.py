"""Parts 3, 4 and 5: what is counted, how fast it trains, and how much memory it takes."""

import itertools
import statistics
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from common import Bench, Sweep, small
from gpu_plugins import Windows, windows
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from flops_fit.data import Data, as_data
from flops_fit.examples.gpt_large import GPT, optimizer
from flops_fit.examples.loss import cross_entropy
from flops_fit.experiment.options import TrainOptions
from flops_fit.plan.counting import count_model
from flops_fit.plan.devices import device_name, matmul_format, measured_peak, peak_flops
from flops_fit.plan.peaks import known_peak
from flops_fit.plan.price import CONTEXT_BYTES
from flops_fit.trainer import train
from flops_fit.training import curve as curve_module
from flops_fit.training.batches import GlobalBatches

ENOUGH_FLOPS, ENOUGH_SPEED, MEMORY_ABOVE = 0.02, 0.98, 1.2
FULL = {"vocab_size": 50304, "seq_len": 1024}  # as config/gpu.yaml
TINY = {"vocab_size": 64, "seq_len": 16, "aspect": 16, "head_dim": 16}
PAIRS = 3


def counting(bench: Bench) -> None:
    """3: FLOPs counted on the meta device against a real step's, and the device's peak."""
    kwargs, depth = bench.scale.kwargs, bench.scale.sizes[-1]
    items, length = bench.scale.items, kwargs["seq_len"]
    train_part, _ = windows(kwargs["vocab_size"], length, items=items)
    build = partial(GPT, depth, **kwargs)
    counted = count_model(build, train_part[0], cross_entropy, length).flops_per_token
    inputs, targets = (t.to(bench.device) for t in train_part.get_batch(range(items)))
    model = build().to(bench.device)
    kinds = [ProfilerActivity.CUDA] if bench.gpu else []
    with (
        sdpa_kernel(SDPBackend.MATH),  # whose products the profiler counts, as on meta
        profile(activities=[ProfilerActivity.CPU, *kinds], with_flops=True) as profiled,
    ):
        cross_entropy(model(inputs), targets).backward()
    products = ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm")
    flops = sum(e.flops for e in profiled.key_averages() if e.key in products)
    ratio = counted * items * length / flops
    what = "FLOPs per token counted on meta / those of torch.profiler"
    bench.note(what, f"{ratio:.4f}", "count_model", abs(ratio - 1) <= ENOUGH_FLOPS)

    device = torch.device(bench.device)
    for precision in ("no", "bf16"):
        number_format = matmul_format(precision)
        measured = measured_peak(device, number_format, torch.get_num_threads())
        table = known_peak(device_name(device), number_format)
        text = f"{measured / 1e12:.4g} TFLOP/s measured"
        text += f", {table / 1e12:.4g} in the table" if table else ", not in the table"
        holds = measured <= 1.05 * table if table else None
        bench.note(f"peak in {number_format}", text, "flops_fit.plan.devices", holds)


class Clock:
    """The loss, which reads the clock at two of its calls in training, with the device at rest.

    A step calls it twice; between the calls ``first`` and ``last`` are whole steps, all after the
    compilation.
    """

    def __init__(self, bench: Bench, steps: int):
        self.bench, self.first, self.last = bench, 2 * (steps // 2), 2 * (steps - 1)
        self.calls, self.times = 0, []

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = cross_entropy(outputs, targets)
        if loss.requires_grad:
            if self.calls in (self.first, self.last):
                if self.bench.gpu:
                    torch.cuda.synchronize()
                self.times.append(time.perf_counter())
            self.calls += 1
        return loss

    @property
    def seconds_per_step(self) -> float:
        return 2 * (self.times[1] - self.times[0]) / (self.last - self.first)


def throughput(bench: Bench) -> None:
    """4: the trainer against a plain loop, both compiled, at the sizes of the smallest budget."""
    kwargs = FULL if bench.gpu else TINY
    items, steps = (16, 60) if bench.gpu else (4, 40)
    train_part, heldout = windows(kwargs["vocab_size"], kwargs["seq_len"], items=items * steps)
    data = as_data((train_part, heldout))
    for depth in (3, 5, 8) if bench.gpu else (1,):
        build = partial(GPT, depth, **kwargs)
        pairs = [
            (
                _ours(bench, build, data, items, steps),
                _plain(bench, build, train_part, items, steps),
            )
            for _ in range(PAIRS)
        ]
        ratio = statistics.median(plain / ours for (ours, _), plain in pairs)
        seconds = statistics.median(ours for (ours, _), _ in pairs)
        waiting = max(data_seconds for (_, data_seconds), _ in pairs) / seconds
        rate = items * kwargs["seq_len"] / seconds
        counted = count_model(build, train_part[0], cross_entropy, kwargs["seq_len"])
        share = counted.flops_per_token * rate / peak_flops(torch.device(bench.device), "bf16")
        text = f"{ratio:.3f} ({rate:,.0f} tokens/s, {share:.1%} of the peak; "
        text += f"{waiting:.2%} of it waiting for data)"
        holds = ratio >= ENOUGH_SPEED if bench.gpu else None
        bench.note(f"depth {depth}: tokens/s, trainer / plain loop", text, "train()", holds)
    before, curve_module.FLUSH_STEPS = curve_module.FLUSH_STEPS, 1
    each, _ = _ours(bench, build, data, items, steps)
    curve_module.FLUSH_STEPS = before
    what = f"depth {depth}: tokens/s, the loss read every step / every {before}"
    bench.note(what, f"{seconds / each:.3f}", "train()")


def _ours(bench: Bench, build, data: Data, items: int, steps: int) -> tuple[float, float]:
    """Seconds of a step of the trainer, and seconds that a step waits for data."""
    length = data.train.windows.shape[1] - 1
    options = TrainOptions(
        tokens=steps * items * length,
        batch_items=items,
        learning_rate=0.004,
        precision="bf16",
        gpus=bench.gpus,
        compile=bench.gpu,
        micro_batch_items=items // 2,
        evaluation_tokens=items // 2 * length,  # one batch, of the shape that is trained
        evaluation_batch_items=items // 2,
        progress=False,
    )
    clock = Clock(bench, steps)
    outcome = train("throughput", build, data, clock, optimizer, options)
    return clock.seconds_per_step, outcome["data_share"] * outcome["train_seconds"] / steps


def _plain(bench: Bench, build, train_part: Windows, items: int, steps: int) -> float:
    """Seconds of a step of what one would write by hand."""
    torch.manual_seed(0)
    torch.compiler.reset()
    model, clock = build().to(bench.device), Clock(bench, steps)
    step_model = torch.compile(model) if bench.gpu else model
    adamw = optimizer(model, 0.004)
    order = GlobalBatches(len(train_part), items, steps * items, 0).indices(0, steps * items)
    batches = _batches(train_part, order, items // 2, bench)
    for _ in range(steps):
        for inputs, targets in itertools.islice(batches, 2):
            with torch.autocast(bench.device, torch.bfloat16):
                logits = step_model(inputs)
            (clock(logits.float(), targets) / 2).backward()
        adamw.step()
        adamw.zero_grad()
    return clock.seconds_per_step


def _batches(
    part: Windows, order: np.ndarray, items: int, bench: Bench
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for start in range(0, len(order), items):
        batch = part.get_batch(order[start : start + items])
        pinned = [t.contiguous().pin_memory() if bench.gpu else t for t in batch]
        inputs, targets = (t.to(bench.device, non_blocking=True) for t in pinned)
        yield inputs, targets


def memory(bench: Bench) -> None:
    """5: the memory that the plan estimates against what the runs take, at five sizes."""
    kwargs, items = (FULL, 16) if bench.gpu else (TINY, 4)
    depths = (3, 6, 9, 12, 16) if bench.gpu else (1, 2)
    changes = {
        "model": {**small(bench)["model"], "kwargs": kwargs},
        "dataset": {
            "factory": "gpu_plugins:windows",
            "kwargs": {key: kwargs[key] for key in ("vocab_size", "seq_len")} | {"items": 400},
        },
        "optimizer": {"factory": "flops_fit.examples.gpt_large:optimizer"},
        "batch": {"value": items * kwargs["seq_len"]},
        "precision": "bf16",
        "resources": {"gpus": bench.gpus, "micro_batch_items": items // 2},
        "limits": {"min_steps": 1, "max_epochs": 1000},
    }
    for depth in depths:
        width = kwargs.get("aspect", 64) * depth
        params = 12 * depth * width**2 + kwargs["vocab_size"] * width
        flops = 6.0 * params * 6 * items * kwargs["seq_len"]
        config = small(bench, **changes, sizes={"values": [depth]}, budgets=[flops])
        sweep = Sweep(bench, f"memory-{depth}", config)
        (row,) = sweep.rows
        record = sweep.train(row["experiment_id"])
        if bench.gpu:  # torch does not count the context, for which the estimate has a share
            estimate = row["memory_bytes"] - CONTEXT_BYTES
            taken = record["device_memory_bytes"]
        else:
            estimate, taken = row["memory_bytes"], record["peak_memory_bytes"]
        ratio = estimate / taken
        text = f"{ratio:.2f} ({estimate / 1e9:.2f} GB, {taken / 1e9:.2f} GB taken)"
        holds = 1 <= ratio <= MEMORY_ABOVE if bench.gpu else None
        bench.note(f"depth {depth}: estimated memory / taken", text, "flops-fit plan, train", holds)
