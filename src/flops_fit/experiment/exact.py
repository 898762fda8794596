"""Exactly D tokens: what processes must agree on at each step, and the last step's remainder."""

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.utils._pytree import tree_leaves

from flops_fit.data import as_targets, one_item_batch
from flops_fit.errors import FlopsFitError
from flops_fit.loss import ignore_index_of, masks_targets
from flops_fit.model_factory import call_model


def target_elements(targets: Any, loss_fn: Callable[..., Any]) -> int:
    """Target elements (tokens) of one item when none of its ``targets`` is ignored.

    ``loss_fn``: the loss, whose ``count_targets`` decides where it has one.
    """
    count = getattr(loss_fn, "count_targets", None)
    if count:
        return max(int(count(one_item_batch(targets))), 1)
    return max(sum(leaf.numel() for leaf in tree_leaves(as_targets(targets))), 1)


class Votes:
    """What the processes that ``accelerator`` links agree on before each step.

    Their CPUs exchange it over gloo, whatever their devices use: a number that comes from a GPU is
    there only once all work in its queue is done, so that it would have nothing to do while the next
    step is prepared.
    """

    def __init__(self, accelerator: Accelerator):
        self.group = None
        if accelerator.num_processes > 1:
            self.group = torch.distributed.new_group(backend="gloo")

    def agree(self, micro_batches: list, stop: bool, save: bool) -> tuple[int, bool, bool]:
        """Agree on a step: its global target count, and whether any process wants to stop or to save.

        ``micro_batches`` are those of this process, as ``(inputs, targets, counts)``; ``stop`` and
        ``save``: whether this process wants it.
        """
        local = sum(int(counts.sum()) for _, _, counts in micro_batches)
        if self.group is None:
            return local, stop, save
        votes = torch.tensor([local, stop, save])
        torch.distributed.all_reduce(votes, group=self.group)
        total, stops, saves = votes.tolist()
        return total, stops > 0, saves > 0

    def close(self) -> None:
        """Give up the connections; every process must call this."""
        if self.group is not None:
            torch.distributed.destroy_process_group(self.group)


def last_micro_batch_syncs(
    accelerator: Accelerator, model: nn.Module, last: bool
) -> contextlib.AbstractContextManager:
    """The context of a micro-batch's backward pass: gradients are exchanged once a step.

    That is with the ``last`` micro-batch; ``accelerator`` has prepared ``model``.
    """
    return contextlib.nullcontext() if last else accelerator.no_sync(model)


def trim(
    accelerator: Accelerator,
    model: nn.Module,
    loss_fn: Callable[..., Any],
    micro_batches: list,
    position: int,
    tokens: int,
) -> list:
    """The step's micro-batches with all but their first ``tokens`` targets ignored.

    ``accelerator`` has prepared ``model``; ``loss_fn`` is the loss; ``micro_batches`` are those of this
    process, as ``(inputs, targets, counts)``, of the global batch that begins at ``position``. The order
    is that of the global batch, where position p belongs to process p mod world. Raises `FlopsFitError`
    where the loss cannot ignore targets: D must then be whole items.
    """
    world, rank = accelerator.num_processes, accelerator.process_index
    mine = [count for _, _, counts in micro_batches for count in counts.tolist()]
    everyone = gather_object([mine])
    shares = [iter(share) for share in everyone]
    kept: dict[int, list[int]] = {r: [] for r in range(world)}
    left = tokens
    for p in range(position, position + sum(len(share) for share in everyone)):
        count = next(shares[p % world], 0)
        kept[p % world].append(min(count, left))
        left -= kept[p % world][-1]
    mine_kept = iter(kept[rank])
    model = accelerator.unwrap_model(model, keep_torch_compile=False)
    return [
        trim_micro_batch(model, loss_fn, batch, list(itertools.islice(mine_kept, len(batch[2]))))
        for batch in micro_batches
    ]


def trim_micro_batch(
    model: nn.Module, loss_fn: Callable[..., Any], batch: tuple, keep: list[int]
) -> tuple:
    """One micro-batch ``batch`` in which item i keeps its first ``keep[i]`` targets.

    ``model`` and ``loss_fn`` are tried to see whether the loss ignores targets. Raises `FlopsFitError`
    where it does not.
    """
    inputs, targets, counts = batch
    if keep == counts.tolist():
        return batch
    if not any(keep):  # it has no share in the step, whatever its loss
        return inputs, targets, np.zeros_like(counts)
    with torch.no_grad():
        masks = masks_targets(loss_fn, call_model(model, inputs), targets)
    if not masks:
        raise FlopsFitError(
            f"tokens: the last item would be cut to {max(keep)} of {max(counts)} targets, and the "
            f"loss does not ignore targets of {ignore_index_of(loss_fn)}; allowed: a D that is a "
            f"multiple of {max(counts)}"
        )
    targets = targets.clone()
    for item, limit in zip(targets, keep, strict=True):
        flat = item.view(-1)
        counted = (flat != ignore_index_of(loss_fn)).nonzero().view(-1)
        flat[counted[limit:]] = ignore_index_of(loss_fn)
    return inputs, targets, np.array(keep)
