"""The default loss, and how target elements (tokens) are counted."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_INDEX = -100  # torch's own default: such targets are neither trained on nor counted


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats over the targets that are not `IGNORE_INDEX`.

    ``outputs``: logits of shape ``(*targets.shape, classes)``; ``targets``: integer classes.
    """
    return F.cross_entropy(
        outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1), ignore_index=IGNORE_INDEX
    )


def ignore_index_of(loss_fn) -> int:
    """The target value that ``loss_fn`` leaves out: its own ``ignore_index``, else torch's -100."""
    return getattr(loss_fn, "ignore_index", IGNORE_INDEX)


def count_per_item(targets: Tensor, loss_fn) -> np.ndarray:
    """Target elements of each item of a batch that are not the loss's ``ignore_index``.

    ``targets`` has shape ``(items, ...)``, the counts ``(items,)``: an array, as accelerate looks
    for tensors in every element of a list. A loss may override the rule with its own
    ``count_targets(targets) -> int``, which is then asked item by item.
    """
    own = getattr(loss_fn, "count_targets", None)
    if own is not None:
        return np.array([int(own(targets[i : i + 1])) for i in range(len(targets))])
    if targets.is_floating_point() or targets.ndim == 0:
        per_item = targets[0].numel() if targets.ndim else 1
        return np.full(len(targets) if targets.ndim else 1, per_item)
    kept = targets != ignore_index_of(loss_fn)
    return (kept.flatten(1).sum(1) if kept.ndim > 1 else kept.long()).numpy(force=True)


def masks_targets(loss_fn, outputs, targets: Tensor) -> bool:
    """Whether ``loss_fn`` is a mean over exactly the targets that are not its ``ignore_index``.

    Checked on real outputs: the losses of two complementary halves, weighted by their counts, must
    add up to the loss of the whole.
    """
    if targets.is_floating_point():
        return False
    ignore = ignore_index_of(loss_fn)
    flat = targets.reshape(-1)
    half = flat.numel() // 2
    if half == 0:
        return False
    first, second = flat.clone(), flat.clone()
    first[half:] = ignore
    second[:half] = ignore
    try:
        parts = [loss_fn(outputs, part.reshape(targets.shape)).double() for part in (first, second)]
        whole = loss_fn(outputs, targets).double()
    except (RuntimeError, IndexError, ValueError):
        return False
    counts = [int((part != ignore).sum()) for part in (first, second)]
    if 0 in counts:
        return False
    mean = (counts[0] * parts[0] + counts[1] * parts[1]) / sum(counts)
    return bool(torch.isclose(mean, whole, rtol=1e-4, atol=1e-6))
