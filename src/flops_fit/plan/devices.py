"""What a device could do at best: its peak FLOP/s from a table, else from a short measurement."""

import functools
import platform
import re
import time
from pathlib import Path

import torch

from flops_fit.plan.peaks import known_peak

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
LONG_ENOUGH = 0.01  # seconds of one product after which a larger one would tell nothing new
LARGEST = 8192  # rows; of fp32 0.8 GB with the product, on a GPU that the model may have filled


def device_name(device: torch.device) -> str:
    """The name that the maker gives the GPU or CPU that ``device`` is."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    try:
        match = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:  # not Linux
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def peak_flops(device: torch.device, precision: str) -> float:
    """Peak FLOP/s of ``device`` for matrix products under accelerate's ``precision``.

    From `flops_fit.plan.peaks` where the device is in it, else measured once per process: on a CPU
    with the threads that torch uses now.
    """
    name = device_name(device)
    number_format = matmul_format(precision)
    return known_peak(name, number_format) or measured_peak(
        device, number_format, torch.get_num_threads()
    )


def matmul_format(precision: str) -> str:
    """The number format of matrix products under accelerate's ``precision``.

    ``no`` is fp32, or tf32 where torch allows it.
    """
    if precision != "no":
        return precision
    # torch.get_float32_matmul_precision fails where a plug-in has set the backend's own precision
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "fp32"


@functools.cache
def measured_peak(device: torch.device, number_format: str, threads: int) -> float:
    """FLOP/s of the best of some square matrix products of growing size on ``device``.

    ``number_format``: fp32, tf32, bf16 or fp16; ``threads``: those of the CPU, by which the measurement
    is remembered. It takes about 0.1 s. It stays with smaller products where a GPU has no room for
    larger ones, as beside other runs.
    """
    generator = torch.Generator(device).manual_seed(0)  # leaves the run's own random state alone
    best, size, seconds = 0.0, 128, 0.0
    while seconds < LONG_ENOUGH and size < LARGEST:
        size *= 2
        try:
            a = torch.randn(size, size, device=device, generator=generator)
            a = a.to(DTYPES.get(number_format, torch.float32))
            seconds = min(_seconds_of_product(a) for _ in range(3))
        except torch.OutOfMemoryError:  # a finished run must not fail for this number
            break
        best = max(best, 2 * size**3 / seconds)
    return best


def _seconds_of_product(a: torch.Tensor) -> float:
    started = time.perf_counter()
    a @ a
    if a.device.type != "cpu":
        torch.accelerator.synchronize(a.device)
    return time.perf_counter() - started
