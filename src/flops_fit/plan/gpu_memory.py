"""How much memory a GPU has: the one that the pricing names, else the smallest of this machine."""

import re
import shutil
import subprocess

SECONDS = 60.0  # the longest time to wait for nvidia-smi
# GB by name (a pattern, the most specific first), from the makers' data sheets. Of a card that is sold
# with two sizes, the name without a size means the smaller one.
MEMORY_GB = {
    r"GB200": 186,
    r"B200": 180,
    r"H200": 141,
    r"H100 NVL": 94,
    r"H100": 80,
    r"A100.*80 ?GB": 80,
    r"A100": 40,
    r"V100.*32 ?GB": 32,
    r"V100": 16,
    r"T4": 16,
    r"A10": 24,
    r"L4": 24,
    r"L40S": 48,
    r"RTX 5090": 32,
    r"RTX 4090": 24,
    r"RTX 3090": 24,
    r"MI300X": 192,
}


def gpu_bytes(device: str | None) -> float | None:
    """Bytes of the GPU ``device``; where it is None, of the smallest of this machine.

    None where that is not known.
    """
    if device is None:
        return min(_installed(), default=None)
    for pattern, gigabytes in MEMORY_GB.items():
        if re.search(rf"\b{pattern}\b", device):
            return 1e9 * gigabytes
    return None


def _installed() -> list[float]:
    """Bytes of each GPU of this machine, by ``nvidia-smi``."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]  # in MiB
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):  # an estimate does without
        return []
    return [2**20 * float(line) for line in done.stdout.split() if line.isdigit()]
