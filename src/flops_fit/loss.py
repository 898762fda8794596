"""The default loss, and how target elements (tokens) are counted."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from flops_fit.errors import FlopsFitError

IGNORE_INDEX = -100  # torch's own default: such targets are neither trained on nor counted


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats over the targets that are not `IGNORE_INDEX`.

    ``outputs``: logits of shape ``(*targets.shape, classes)``; ``targets``: integer classes. Raises
    `FlopsFitError` where a model returns something around its logits.
    """
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        raise FlopsFitError(_not_logits(outputs, targets))
    return F.cross_entropy(
        outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1), ignore_index=IGNORE_INDEX
    )


def _not_logits(outputs: Any, targets: Any) -> str:
    """What is wrong with a call of the default loss, and the loss to write instead."""
    if isinstance(outputs, Tensor):
        return (
            f"loss: the default loss takes targets that are one tensor, not {_kind(targets)}; allowed: "
            "a loss.function of your own"
        )
    if isinstance(outputs, Mapping):
        part = f"outputs[{next((k for k in outputs if k == 'logits'), 'NAME')!r}]"
    elif hasattr(outputs, "logits"):
        part = "outputs.logits"
    else:
        part = "outputs[0]"
    return (
        f"loss: the model returns {_kind(outputs)}, and the default loss takes the logits alone; "
        "allowed: a model that returns them, or a loss.function of your own, such as "
        f"def loss(outputs, targets): return cross_entropy({part}, targets)"
    )


def _kind(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, tuple | list | Mapping) else ""
    return f"a {type(value).__name__}{size}"


def ignore_index_of(loss_fn) -> int:
    """The target value that ``loss_fn`` leaves out: its own ``ignore_index``, else torch's -100."""
    return getattr(loss_fn, "ignore_index", IGNORE_INDEX)


def count_per_item(targets: Any, loss_fn) -> np.ndarray:
    """Target elements of each item of a batch that are not the loss's ``ignore_index``.

    ``targets`` has shape ``(items, ...)``, the counts ``(items,)``: an array, as accelerate looks
    for tensors in every element of a list. Of a tuple or mapping of such tensors all elements
    count. A loss may override the rule with its own ``count_targets(targets) -> int``, which is
    then asked item by item.
    """
    own = getattr(loss_fn, "count_targets", None)
    if own is not None:
        items = len(tree_leaves(targets)[0])
        return np.array(
            [
                int(own(tree_map(lambda t: t[i : i + 1], targets)))  # noqa: B023
                for i in range(items)
            ]
        )
    if not isinstance(targets, Tensor):
        counts = [count_per_item(leaf, loss_fn) for leaf in tree_leaves(targets)]
        return np.sum(counts, axis=0)
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
    halves = _losses_of_halves(loss_fn, outputs, targets)
    if halves is None:
        return False
    (first, second, whole), counts = halves
    mean = (counts[0] * first + counts[1] * second) / sum(counts)
    return bool(torch.isclose(mean, whole, rtol=1e-4, atol=1e-6))


def adds_up(loss_fn, outputs, targets: Tensor) -> bool:
    """Whether ``loss_fn`` is a sum over those targets of an item that are not its ``ignore_index``."""
    if not isinstance(targets, Tensor) or targets.numel() <= len(targets):  # one for each item
        return False
    halves = _losses_of_halves(loss_fn, outputs, targets)
    if halves is None:
        return False
    first, second, whole = halves[0]
    if not (bool(torch.isclose(first + second, whole, rtol=1e-3)) and first > 0 and second > 0):
        return False
    return not _is_mean_of_parts(loss_fn, outputs, targets, whole)


def _is_mean_of_parts(loss_fn, outputs: Any, targets: Tensor, whole: Tensor) -> bool:
    """Whether ``whole`` is the mean of the losses of each item's first and second part.

    A mean that gives ignored targets a loss of zero, and counts them, looks like a sum but for this.
    """
    if not isinstance(outputs, Tensor) or outputs.shape[:2] != targets.shape[:2]:
        return False
    count, half = targets.shape[1], targets.shape[1] // 2
    try:
        first = loss_fn(outputs[:, :half], targets[:, :half]).double()
        second = loss_fn(outputs[:, half:], targets[:, half:]).double()
    except (RuntimeError, IndexError, ValueError):
        return False
    mean = (half * first + (count - half) * second) / count
    return bool(torch.isclose(mean, whole, rtol=1e-3))


def _losses_of_halves(loss_fn, outputs, targets: Any) -> tuple[list[Tensor], list[int]] | None:
    """The losses with only the first, only the second half of the kept targets, and all; the counts.

    None where that cannot be tried: targets that are no integers, or fewer than two that are kept.
    """
    if not isinstance(targets, Tensor) or targets.is_floating_point():
        return None
    ignore = ignore_index_of(loss_fn)
    flat = targets.reshape(-1)
    kept = (flat != ignore).nonzero().view(-1)
    if len(kept) < 2:
        return None
    half = int(kept[len(kept) // 2])
    first, second = flat.clone(), flat.clone()
    first[half:] = ignore
    second[:half] = ignore
    try:
        parts = [loss_fn(outputs, part.reshape(targets.shape)).double() for part in (first, second)]
        whole = loss_fn(outputs, targets).double()
    except (RuntimeError, IndexError, ValueError):
        return None
    counts = [int((part != ignore).sum()) for part in (first, second)]
    return None if 0 in counts else ([*parts, whole], counts)
