"""The default loss, and the rules by which target elements (tokens) are counted."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from flops_fit.errors import FlopsFitError

IGNORE_INDEX = -100  # torch's default; such targets are neither trained on nor counted


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats over the targets that are not `IGNORE_INDEX`.

    ``outputs`` are logits of shape ``(*targets.shape, classes)`` and ``targets`` integer classes.
    Raises `FlopsFitError` where one of them is not a tensor, such as a model's output with several
    fields.
    """
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        raise FlopsFitError(_not_logits(outputs, targets))
    return F.cross_entropy(
        outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1), ignore_index=IGNORE_INDEX
    )


def on_device(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """Return ``function``, a loss or a metric, with its tensors (class weights) on ``device``."""
    return function.to(device) if isinstance(function, nn.Module) else function


def _not_logits(outputs: Any, targets: Any) -> str:
    """Explain why the default loss cannot be called, and which loss to write instead."""
    if isinstance(outputs, Tensor):
        return (
            f"loss: the targets are {_kind(targets)}, and the default loss takes a single tensor; "
            "allowed: targets that are one tensor, or your loss under loss.function"
        )
    if isinstance(outputs, Mapping):
        part = f"outputs[{next((k for k in outputs if k == 'logits'), 'NAME')!r}]"
    elif hasattr(outputs, "logits"):
        part = "outputs.logits"
    else:
        part = "outputs[0]"
    return (
        f"loss: the model returns {_kind(outputs)}, and the default loss takes only the logits; "
        "allowed: a model that returns the logits, or your loss under loss.function, such as "
        f"def loss(outputs, targets): return cross_entropy({part}, targets), with cross_entropy from "
        "flops_fit.loss"
    )


def _kind(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, tuple | list | Mapping) else ""
    return f"a {type(value).__name__}{size}"


def ignore_index_of(loss_fn: Callable) -> int:
    """Return the target value that ``loss_fn`` ignores: its ``ignore_index``, or torch's -100."""
    return getattr(loss_fn, "ignore_index", IGNORE_INDEX)


def count_per_item(targets: Any, loss_fn: Callable) -> np.ndarray:
    """Count the target elements of each item of a batch that ``loss_fn`` does not ignore.

    ``targets`` has the shape ``(items, ...)``, or is a tuple or mapping of such tensors, whose
    elements are all counted. The result has the shape ``(items,)``; it is an array because
    accelerate searches every element of a list for tensors. A loss may replace this rule by a
    method ``count_targets(targets) -> int``, which is then called for each item.
    """
    custom = getattr(loss_fn, "count_targets", None)
    if custom is not None:
        items = len(tree_leaves(targets)[0])
        return np.array(
            [
                int(custom(tree_map(lambda t: t[i : i + 1], targets)))  # noqa: B023
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


def masks_targets(loss_fn: Callable, outputs: Any, targets: Any) -> bool:
    """Whether ``loss_fn`` is a mean over exactly the targets that are not its ``ignore_index``.

    The test uses real ``outputs`` and their ``targets``: the losses of two complementary halves of
    the targets, weighted by their counts, must add up to the loss of all targets.
    """
    halves = _losses_of_halves(loss_fn, outputs, targets)
    if halves is None:
        return False
    (first, second, whole), counts = halves
    mean = (counts[0] * first + counts[1] * second) / sum(counts)
    return bool(torch.isclose(mean, whole, rtol=1e-4, atol=1e-6))


def adds_up(loss_fn: Callable, outputs: Any, targets: Any) -> bool:
    """Whether ``loss_fn`` is a sum over the targets of an item, without its ``ignore_index``.

    The test compares the losses of halves of the ``targets`` that belong to real ``outputs``.
    """
    if not isinstance(targets, Tensor) or targets.numel() <= len(targets):  # one target per item
        return False
    halves = _losses_of_halves(loss_fn, outputs, targets)
    if halves is None:
        return False
    first, second, whole = halves[0]
    if not (bool(torch.isclose(first + second, whole, rtol=1e-3)) and first > 0 and second > 0):
        return False
    return not _is_mean_of_parts(loss_fn, outputs, targets, whole)


def _is_mean_of_parts(loss_fn: Callable, outputs: Any, targets: Tensor, whole: Tensor) -> bool:
    """Whether ``whole`` is the mean of the losses of the first and the second part of each item.

    This distinguishes a sum from a mean that counts ignored targets with a loss of zero.
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


def _losses_of_halves(
    loss_fn: Callable, outputs: Any, targets: Any
) -> tuple[list[Tensor], list[int]] | None:
    """Return the losses of the first half of the targets, the second half and all; and the counts.

    Ignored targets are not part of the halves. Returns None where the targets are no integers, or
    fewer than two are not ignored.
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
