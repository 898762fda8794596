"""How much memory a GPU has: the one that the pricing names, else the smallest that runs may take."""

import os
import re

from flops_fit.errors import FlopsFitError
from flops_fit.plan.nvidia_smi import VISIBLE, cards, slice_bytes, visible_devices

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
    """Bytes of the GPU ``device``; where it is None, of the smallest that runs may take here.

    Those are the GPUs, or slices of them, that ``CUDA_VISIBLE_DEVICES`` lists, else all. None where
    that is not known.
    """
    if device is None:
        return _smallest_here()
    for pattern, gigabytes in MEMORY_GB.items():
        if re.search(rf"\b{pattern}\b", device):
            return 1e9 * gigabytes
    return None


def _smallest_here() -> float | None:
    memory = {card.uuid: card.memory_bytes for card in cards()}
    if not memory:
        return None
    try:
        devices = visible_devices(os.environ.get(VISIBLE)).values()
    except FlopsFitError:  # an estimate does without
        return None
    memory |= slice_bytes()
    return min((size for size in map(memory.get, devices) if size is not None), default=None)
