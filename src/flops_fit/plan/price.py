"""What an experiment will cost before it is run: time, memory, device-hours and money.

An estimate, to plan by and to ask a cluster for: no experiment's identity depends on it. Light, so
that the workflow can price every job without torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import measured_file
from flops_fit.files import read_json
from flops_fit.plan.peaks import PEAK_TFLOPS, known_peak

# What every refusal that concerns cost ends with.
PLAN_HINT = "`snakemake plan --cores 1` shows what each run costs"

START_UP = 6.0  # seconds of a job before its first step: two interpreters that import torch
PEAK_SHARE = 0.3  # of a GPU's peak that training usually reaches; small models reach less
DEVICES = {"cpu": "CPU thread", "gpu": "GPU"}  # kind of device -> what one is called
GUESS = {"cpu": (1e10, 0.006), "gpu": (5e12, 0.03)}  # FLOP/s and seconds a step, on the low side
PARAM_BYTES = 4 + 4 + 8  # weight, gradient and AdamW's two moments, all fp32
BUCKET_BYTES = 4  # a copy of the gradients, where several processes exchange them
BASE_BYTES = {"cpu": 0.45e9, "gpu": 1.0e9}  # torch itself, or the device's context
HOST_BYTES_BESIDE_GPU = 3.5e9  # of each process that drives a GPU
LAUNCHER_BYTES = 0.3e9
SHORTEST_MINUTES, FEWEST_MB = 10, 1500  # asked of a cluster for however small a job
TIME_MARGIN, MEMORY_MARGIN = 2.0, 1.5


@dataclass(frozen=True)
class Work:
    """What decides an experiment's price.

    ``flops`` of the whole run; ``batch_items`` is the global batch, of ``tokens_per_item`` target
    elements each; ``activation_bytes`` is what is kept per target element for the backward pass.
    """

    flops: float
    steps: int
    batch_items: int
    tokens_per_item: float
    params_total: int
    activation_bytes: float


@dataclass(frozen=True)
class Rate:
    """How fast one device trains: a step takes ``step_seconds`` and its FLOPs over the rest."""

    flops_per_second: float
    step_seconds: float
    source: str


@dataclass(frozen=True)
class Price:
    """``seconds`` of wall time, start-up included; ``memory_bytes`` of one process on its device."""

    seconds: float
    device_hours: float
    memory_bytes: float
    money: float | None


def work_of_row(row: Mapping[str, Any]) -> Work:
    """The work of a plan's row."""
    return Work(
        row["flops_counted"],
        row["steps"],
        row["batch_items"],
        row["tokens_per_item"],
        row["params_total"],
        row["activation_bytes"],
    )


def work_of_spec(spec: Mapping[str, Any]) -> Work:
    """The work of an experiment's spec: the same as that of its row."""
    counts, identity = spec["counts"], spec["identity"]
    return Work(
        counts["flops_per_token"] * identity["tokens"],
        identity["steps"],
        identity["batch_items"],
        counts["tokens_per_item"],
        counts["params_total"],
        counts["activation_bytes"],
    )


def device_kind(gpus: int) -> str:
    """The kind of device that trains: gpu where a run has ``gpus``, else cpu."""
    return "gpu" if gpus else "cpu"


def rate_for(pricing: Mapping, gpus: int, precision: str, results: str | Path) -> Rate:
    """The rate of one device (a GPU, or a CPU thread): stated, of a known device, measured, guessed.

    ``pricing`` is the config's section of that name. What `flops_fit.plan.measure` has measured lies
    below ``results``. Raises `FlopsFitError` for a device that is not in the table.
    """
    kind = device_kind(gpus)
    flops, step = GUESS[kind]
    if pricing["step_seconds"] is not None:
        step = pricing["step_seconds"]
    if pricing["flops_per_second"] is not None:
        return Rate(pricing["flops_per_second"], step, "stated in the config")
    if pricing["device"] is not None:
        peak = _peak(pricing["device"], {"no": "fp32"}.get(precision, precision))
        source = f"{100 * PEAK_SHARE:g}% of the peak of {pricing['device']}"
        return Rate(PEAK_SHARE * peak, step, source)
    path = measured_file(results, kind)
    if path.exists():
        return _measured(path)
    return Rate(flops, step, f"a cautious guess for a {DEVICES[kind]}")


def priced_resources(pricing: Mapping, resources: Mapping) -> dict:
    """The resources that a price is for: a GPU for each process, where ``pricing`` names one.

    A plan that trains on CPUs can then be priced for GPUs.
    """
    if pricing["device"] is None or resources["gpus"]:
        return {**resources}
    return {**resources, "gpus": resources["processes"]}


def _measured(path: Path) -> Rate:
    try:
        rate = Rate(**read_json(path))
        sound = 0 < rate.flops_per_second < math.inf and 0 <= rate.step_seconds < math.inf
    except TypeError:
        sound = False
    if not sound:
        raise FlopsFitError(
            f"{path}: not a measured rate; delete it, or measure again; {PLAN_HINT}"
        )
    return rate


def _peak(device: str, number_format: str) -> float:
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


def price(work: Work, rate: Rate, resources: Mapping, per_hour: float | None = None) -> Price:
    """The price of one experiment under the config's ``resources``.

    ``per_hour`` is the money that one device (a GPU; without GPUs a CPU thread) costs an hour.
    """
    processes = resources["processes"]
    devices = resources["gpus"] or processes * resources["threads"]
    computing = work.flops / (rate.flops_per_second * devices)
    seconds = START_UP + work.steps * rate.step_seconds + computing
    hours = seconds * devices / 3600
    return Price(
        seconds,
        hours,
        process_bytes(work, resources),
        None if per_hour is None else hours * per_hour,
    )


def process_bytes(work: Work, resources: Mapping) -> float:
    """Memory of one process on its device: weights, gradients, AdamW, activations of a micro-batch.

    From above: fused attention, 16-bit activations and recomputation need less.
    """
    processes = resources["processes"]
    items = math.ceil(work.batch_items / processes)
    items = min(items, resources["micro_batch_items"] or items)
    state = PARAM_BYTES + (BUCKET_BYTES if processes > 1 else 0)
    base = BASE_BYTES[device_kind(resources["gpus"])]
    activations = items * work.tokens_per_item * work.activation_bytes
    return base + state * work.params_total + activations


def job_minutes(price: Price) -> int:
    """The time limit to ask a cluster for, at the first attempt."""
    return max(SHORTEST_MINUTES, math.ceil(TIME_MARGIN * price.seconds / 60))


def job_megabytes(work: Work, price: Price, resources: Mapping) -> int:
    """The host memory to ask a cluster for, at the first attempt."""
    each = price.memory_bytes
    if resources["gpus"]:  # the weights pass through the host when they are made or saved
        each = HOST_BYTES_BESIDE_GPU + PARAM_BYTES * work.params_total
    total = LAUNCHER_BYTES + resources["processes"] * each
    return max(FEWEST_MB, math.ceil(MEMORY_MARGIN * total / 1e6))
