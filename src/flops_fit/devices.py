"""What a device could do at best: its peak FLOP/s from a table, else from a short measurement."""

import functools
import platform
import re
import time
from pathlib import Path

import torch

# Dense peaks in TFLOP/s by name (a pattern, the most specific first) and number format. Sources:
# NVIDIA's data sheets of each card (their figures with sparsity halved) and, for GeForce cards, the
# white papers of the Ampere GA102, Ada and RTX Blackwell architectures (16-bit with fp32
# accumulation); AMD's data sheet of the MI300X.
PEAK_TFLOPS = {
    r"GB200": {"bf16": 2500, "fp16": 2500, "tf32": 1250, "fp32": 80},
    r"B200": {"bf16": 2250, "fp16": 2250, "tf32": 1125, "fp32": 75},
    r"H200 NVL": {"bf16": 835.5, "fp16": 835.5, "tf32": 417.5, "fp32": 60},
    r"G?H200": {"bf16": 989.4, "fp16": 989.4, "tf32": 494.7, "fp32": 66.9},
    r"H100 NVL": {"bf16": 835.5, "fp16": 835.5, "tf32": 417.5, "fp32": 60},
    r"H100 PCIe": {"bf16": 756, "fp16": 756, "tf32": 378, "fp32": 51.2},
    r"H100": {"bf16": 989.4, "fp16": 989.4, "tf32": 494.7, "fp32": 66.9},
    r"A100": {"bf16": 312, "fp16": 312, "tf32": 156, "fp32": 19.5},
    r"V100-SXM[23]": {"fp16": 125, "fp32": 15.7},
    r"V100-PCIE": {"fp16": 112, "fp32": 14},
    r"T4": {"fp16": 65, "fp32": 8.1},
    r"A10": {"bf16": 125, "fp16": 125, "tf32": 62.5, "fp32": 31.2},
    r"L4": {"bf16": 121, "fp16": 121, "tf32": 60, "fp32": 30.3},
    r"L40S": {"bf16": 362, "fp16": 362, "tf32": 183, "fp32": 91.6},
    r"RTX 5090$": {"bf16": 209.5, "fp16": 209.5, "tf32": 104.8, "fp32": 104.8},
    r"RTX 4090$": {"bf16": 165.2, "fp16": 165.2, "tf32": 82.6, "fp32": 82.6},
    r"RTX 3090$": {"bf16": 71, "fp16": 71, "tf32": 35.6, "fp32": 35.6},
    r"MI300X": {"bf16": 1307.4, "fp16": 1307.4, "tf32": 653.7, "fp32": 163.4},
}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
LONG_ENOUGH = 0.01  # seconds of one product after which a larger one would tell nothing new


def device_name(device: torch.device) -> str:
    """The maker's name of a GPU or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:  # not Linux
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def peak_flops(device: torch.device, precision: str) -> float:
    """Peak FLOP/s of ``device`` for matrix products under accelerate's ``precision``.

    From `PEAK_TFLOPS` where the device is in it, else measured once per process: on a CPU with the
    threads that torch uses now.
    """
    name = device_name(device)
    number_format = matmul_format(precision)
    return known_peak(name, number_format) or measured_peak(
        device, number_format, torch.get_num_threads()
    )


def matmul_format(precision: str) -> str:
    """The number format of matrix products: ``no`` is fp32, or tf32 where torch allows it."""
    if precision != "no":
        return precision
    return "fp32" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def known_peak(name: str, number_format: str) -> float | None:
    """FLOP/s of the table, or None; a slice of a GPU (MIG) is not the GPU."""
    if "MIG " in name:
        return None
    for pattern, peaks in PEAK_TFLOPS.items():
        if re.search(rf"\b{pattern}(\b|$)", name):
            return 1e12 * peaks[number_format] if number_format in peaks else None
    return None


@functools.cache
def measured_peak(device: torch.device, number_format: str, threads: int) -> float:
    """FLOP/s of the best of some square matrix products of growing size, about 0.1 s in all."""
    generator = torch.Generator(device).manual_seed(0)  # leaves the run's own random state alone
    best, size, seconds = 0.0, 128, 0.0
    while seconds < LONG_ENOUGH:
        size *= 2
        a = torch.randn(size, size, device=device, generator=generator)
        a = a.to(DTYPES.get(number_format, torch.float32))
        seconds = min(_seconds_of_product(a) for _ in range(3))
        best = max(best, 2 * size**3 / seconds)
    return best


def _seconds_of_product(a: torch.Tensor) -> float:
    started = time.perf_counter()
    a @ a
    if a.device.type != "cpu":
        torch.accelerator.synchronize(a.device)
    return time.perf_counter() - started


def speed(outcome: dict, flops_per_token: float) -> dict:
    """A record's FLOP/s (counted, so without recomputed activations) and its share of the peak.

    Both None where FLOPs were not counted.
    """
    if not flops_per_token:
        return {"flops_per_second": None, "peak_share": None}
    flops_per_second = flops_per_token * outcome["tokens_per_second"]
    share = flops_per_second / outcome["peak_flops_per_second"]
    return {"flops_per_second": flops_per_second, "peak_share": share}
