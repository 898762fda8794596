"""Peak FLOP/s of known devices; light, so that a plan can be priced without torch."""

import re

# Dense peaks in TFLOP/s by name (a pattern, the most specific first) and number format. Sources:
# NVIDIA's data sheets of each card (their figures with sparsity halved) and, for GeForce cards, the
# white papers of the Ampere GA102, Ada and RTX Blackwell architectures (16-bit with fp32
# accumulation); AMD's data sheet of the MI300X.
PEAK_TFLOPS: dict[str, dict[str, float]] = {
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


def known_peak(name: str, number_format: str) -> float | None:
    """Peak FLOP/s of the device ``name`` in ``number_format``, from the table; None if it is not in it.

    A slice of a GPU (MIG) is not the GPU.
    """
    if "MIG " in name:
        return None
    for pattern, peaks in PEAK_TFLOPS.items():
        if re.search(rf"\b{pattern}(\b|$)", name):
            return 1e12 * peaks[number_format] if number_format in peaks else None
    return None
