"""What an experiment will cost before it is run: time, memory, device-hours and money.

An estimate, to plan by and to ask a cluster for: no experiment's identity depends on it. Light, so
that the workflow can price every job without torch.
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.options import Resources
from flops_fit.experiment.places import measured_file
from flops_fit.experiment.spec import Spec
from flops_fit.files import read_object
from flops_fit.plan.peaks import PEAK_TFLOPS, known_peak
from flops_fit.sweep import Experiment, ModelCount

# What every refusal that concerns cost ends with.
PLAN_HINT = "`snakemake plan --cores 1` shows what each run costs"

START_UP = 6.0  # seconds of a job before its first step, at most: two imports of torch
PEAK_SHARE = 0.3  # of a GPU's peak that training usually reaches; small models reach less
SLOWEST, FASTEST = 1e6, 1e17  # FLOP/s of one device
SEVERAL = re.compile(  # 8x H100, H100 x8, DGX H100, GB200 NVL72
    r"\b\d+ ?[x×](?!\w)|(?<!\w)[x×*] ?\d+\b|\b[DH]GX\b|NVL\d|\b(node|server|pod|cluster)s?\b",
    re.IGNORECASE,
)
DEVICES = {"cpu": "CPU thread", "gpu": "GPU"}  # kind of device -> what one is called
CAUTIOUS_RATES = {"cpu": (1e10, 0.006), "gpu": (5e12, 0.03)}  # FLOP/s, and seconds a step
GRADIENT_BYTES = 4
PARAM_BYTES = 4 + GRADIENT_BYTES + 8  # weight, gradient and AdamW's two moments, all fp32
BUCKET_BYTES = 4  # a copy of the gradients, where several processes exchange them
CONTEXT_BYTES = 0.8e9  # of a GPU, which torch does not allocate, with the code of its kernels
WORKSPACE_BYTES = 0.2e9  # that the kernels of a GPU need at once, at most
BASE_BYTES = {"cpu": 0.45e9, "gpu": CONTEXT_BYTES + WORKSPACE_BYTES}  # on a CPU torch itself
HOST_BYTES_BESIDE_GPU = 3.5e9  # of each process that drives a GPU
LAUNCHER_BYTES = 0.3e9
SHORTEST_MINUTES, FEWEST_MB = 10, 1500  # asked of a cluster for however small a job
TIME_MARGIN, MEMORY_MARGIN = 2.0, 1.5


@dataclass(frozen=True)
class Work:
    """What decides the price of an experiment.

    ``flops`` are those of the ``steps`` steps that the run trains itself; ``batch_items`` is the largest
    global batch, of ``tokens_per_item`` target elements each; ``params_total`` counts all parameters;
    ``activation_bytes``, ``fixed_bytes`` and ``evaluation_bytes`` are those of its `ModelCount`.
    """

    flops: float
    steps: int
    batch_items: int
    tokens_per_item: float
    params_total: int
    activation_bytes: float
    fixed_bytes: int = 0
    evaluation_bytes: float = 0.0


@dataclass(frozen=True)
class Rate:
    """How fast one device trains.

    A step takes ``step_seconds`` and, beyond, its FLOPs divided by ``flops_per_second``; ``source``
    says where both come from.
    """

    flops_per_second: float
    step_seconds: float
    source: str


@dataclass(frozen=True)
class Price:
    """What one experiment takes.

    ``seconds`` of wall time, start-up included; ``device_hours`` of all devices together;
    ``memory_bytes`` of one process on its device; ``money`` (None without a price per hour).
    """

    seconds: float
    device_hours: float
    memory_bytes: float
    money: float | None


def work_of(experiment: Experiment, start: int = 0) -> Work:
    """The work of a planned ``experiment``; other runs train its first ``start`` tokens."""
    return Work(
        experiment.flops_counted * (1 - start / experiment.num_tokens),
        round(experiment.steps - experiment.batches.steps(start / experiment.tokens_per_item)),
        experiment.batches.last,
        experiment.tokens_per_item,
        *_memory_of(experiment.count),
    )


def work_of_spec(spec: Spec, start: int = 0) -> Work:
    """The work of a ``spec``: the same as that of its experiment, with the same ``start``."""
    recipe = spec.recipe
    return Work(
        spec.count.spent_flops(recipe.tokens) * (1 - start / recipe.tokens),
        round(recipe.steps - recipe.batches.steps(start / spec.tokens_per_item)),
        recipe.batches.last,
        spec.tokens_per_item,
        *_memory_of(spec.count),
    )


def _memory_of(count: ModelCount) -> tuple[int, float, int, float]:
    """The fields of a `Work` that decide its memory."""
    return count.params_total, count.activation_bytes, count.fixed_bytes, count.evaluation_bytes


def device_kind(gpus: int) -> str:
    """The kind of device that trains: gpu where a run has ``gpus``, else cpu."""
    return "gpu" if gpus else "cpu"


def usable_cores() -> int:
    """The CPU cores of this machine that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cautious_rate(gpus: int) -> Rate:
    """The rate of a device of which nothing is known, a GPU where a run has ``gpus``."""
    kind = device_kind(gpus)
    return Rate(*CAUTIOUS_RATES[kind], f"a cautious guess for a {DEVICES[kind]}")


def rate_for(pricing: Mapping[str, Any], gpus: int, precision: str, results: str | Path) -> Rate:
    """The rate of one device: a GPU where a run has ``gpus``, else a CPU thread.

    It is the one that ``pricing`` (the config's section of that name) states, or a share of the peak
    of the device that it names at accelerate's ``precision``; else what `flops_fit.plan.measure` has
    measured and left below ``results``; else a cautious guess. Raises `FlopsFitError` for a device
    that is not in the table or is several, and for a speed that no device has.
    """
    kind = device_kind(gpus)
    step = CAUTIOUS_RATES[kind][1]
    if pricing["step_seconds"] is not None:
        step = pricing["step_seconds"]
    number_format = {"no": "fp32"}.get(precision, precision)
    if pricing["flops_per_second"] is not None:
        _check_stated(pricing["flops_per_second"], pricing["device"])
        return Rate(pricing["flops_per_second"], step, "stated in the config")
    if pricing["device"] is not None:
        peak = _peak(pricing["device"], number_format)
        source = f"{100 * PEAK_SHARE:g}% of the {number_format} peak of {pricing['device']}"
        return Rate(PEAK_SHARE * peak, step, source)
    path = measured_file(results, kind)
    if path.exists():
        return _measured(path)
    return replace(cautious_rate(gpus), step_seconds=step)


def priced_resources(pricing: Mapping[str, Any], resources: Resources) -> Resources:
    """The ``resources`` that a price is for: a GPU for each process, where ``pricing`` names a GPU.

    A plan that trains on CPUs can then be priced for GPUs.
    """
    if pricing["device"] is None or resources.gpus:
        return resources
    return replace(resources, gpus=resources.processes)


def _measured(path: Path) -> Rate:
    try:
        rate = Rate(**read_object(path))
        sound = 0 < rate.flops_per_second < math.inf and 0 <= rate.step_seconds < math.inf
    except TypeError:
        sound = False
    if not sound:
        raise FlopsFitError(
            f"{path}: not a measured rate; delete it, or measure again; {PLAN_HINT}"
        )
    return rate


def _check_stated(flops_per_second: float, device: str | None) -> None:
    """Refuse a speed that no device has, as where it is stated in TFLOP/s, or for a node of several."""
    fastest = FASTEST
    if device is not None:
        peaks = [known_peak(device, number_format) for number_format in ("bf16", "fp16", "fp32")]
        fastest = 2 * max((peak for peak in peaks if peak is not None), default=FASTEST / 2)  # fp8
    if not SLOWEST <= flops_per_second <= fastest:
        raise FlopsFitError(
            f"pricing.flops_per_second: {flops_per_second:g}; allowed: the FLOP/s of one "
            f"{device or 'device'}, {SLOWEST:g} to {fastest:.4g} (400 TFLOP/s are 4e14)"
        )


def _peak(device: str, number_format: str) -> float:
    if SEVERAL.search(device):
        raise FlopsFitError(
            f"pricing.device: {device!r} is several devices; allowed: the name of one, such as "
            "H100, and their number as --devices (answer.devices), or in a plan as resources.gpus"
        )
    peak = known_peak(device, number_format)
    if peak is None:
        names = ", ".join(
            name.strip("$").replace("G?", "").replace("[23]", "2")
            for name, peaks in PEAK_TFLOPS.items()
            if number_format in peaks
        )
        raise FlopsFitError(
            f"pricing.device: {device!r} is not known with {number_format}; allowed: {names}; or "
            f"state pricing.flops_per_second; {PLAN_HINT}"
        )
    return peak


def price(work: Work, rate: Rate, resources: Resources, per_hour: float | None = None) -> Price:
    """The price of the ``work`` of one experiment at ``rate`` and with ``resources``.

    ``per_hour`` is the money that one device (a GPU; without GPUs a CPU thread) costs an hour. Runs
    that share a GPU share its FLOP/s and its price, while the least times of their steps overlap.
    """
    devices = (resources.gpus or resources.processes * resources.threads) / resources.sharing
    computing = work.flops / (rate.flops_per_second * devices)
    seconds = START_UP + work.steps * rate.step_seconds + computing
    hours = seconds * devices / 3600
    return Price(
        seconds,
        hours,
        process_bytes(work, resources),
        None if per_hour is None else hours * per_hour,
    )


def process_bytes(work: Work, resources: Resources) -> float:
    """Bytes of one process on its device, for ``work`` with ``resources``.

    They are those of weights, gradients and AdamW's moments, and of the larger of a micro-batch in
    training and a batch in evaluation. This is an upper estimate: an optimiser with fewer states
    needs less, and so does a compiled model. It leaves out what the allocator of a GPU holds unused.
    """
    state = PARAM_BYTES + (BUCKET_BYTES if resources.processes > 1 else 0)
    base = BASE_BYTES[device_kind(resources.gpus)]
    return base + state * work.params_total + max(passing_bytes(work, resources))


def passing_bytes(work: Work, resources: Resources) -> tuple[float, float]:
    """Bytes of a process that come and go in training, and in evaluation in the place of gradients.

    They are those of ``work`` with ``resources``.
    """
    items = math.ceil(work.batch_items / resources.processes)
    items = min(items, resources.micro_batch_items or items)
    training = items * work.tokens_per_item * work.activation_bytes + work.fixed_bytes
    return training, work.evaluation_bytes - GRADIENT_BYTES * work.params_total


def job_minutes(price: Price) -> int:
    """Minutes to ask a cluster for at the first attempt, from the ``price`` of a run."""
    return max(SHORTEST_MINUTES, math.ceil(TIME_MARGIN * price.seconds / 60))


def job_megabytes(work: Work, price: Price, resources: Resources) -> int:
    """Megabytes of host memory to ask a cluster for at the first attempt.

    They follow from the ``work`` and the ``price`` of a run with ``resources``.
    """
    each = price.memory_bytes
    if resources.gpus:  # the weights pass through the host when they are made or saved
        each = HOST_BYTES_BESIDE_GPU + PARAM_BYTES * work.params_total
    total = LAUNCHER_BYTES + resources.processes * each
    return max(FEWEST_MB, math.ceil(MEMORY_MARGIN * total / 1e6))
