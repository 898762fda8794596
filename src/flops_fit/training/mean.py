"""Check that a loss is a mean over targets, as a law and the weighing of micro-batches need it."""

import itertools
import math
from collections.abc import Callable

import torch
from torch import nn

from flops_fit.data import Data, as_targets, length_of
from flops_fit.errors import FlopsFitError
from flops_fit.loss import adds_up, count_per_item
from flops_fit.model_factory import call_model

DRAWS = 16  # evaluations of a random loss, whose mean is compared
COMPARED_ITEMS = 8  # items whose loss is compared with the losses of their halves


def check_mean(
    model: nn.Module, data: Data, loss_fn: Callable, part: int | None = None
) -> list[str]:
    """Check that ``loss_fn`` is a mean over targets, on some items of ``data`` and their halves.

    ``model`` computes the outputs. ``part`` is how many items of a batch the loss gets at once (None:
    all). Raises `FlopsFitError` where the loss is a sum over the items or over the targets of an
    item, and where it is neither a sum nor a mean while a batch is split. Returns a note where it is
    neither and gets whole batches, such as a loss that compares the items of a batch with each other.
    """
    items = (
        list(itertools.islice(iter(data.train), COMPARED_ITEMS))
        if data.is_stream
        else [data.train[i] for i in range(min(COMPARED_ITEMS, length_of(data.train)))]
    )
    half = len(items) // 2
    if half < 1:
        return []
    items = items[: 2 * half]
    name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
    training, digits = model.training, list[float]()
    model.eval()  # without dropout, and without statistics of the batch

    def loss_of(part: list, draws: int = 1) -> tuple[float, int]:
        inputs, targets = data.collate([(i, as_targets(t)) for i, t in part])
        values = [loss_fn(call_model(model, inputs), targets) for _ in range(draws)]
        digits.append(torch.finfo(values[0].dtype).eps)
        kept = int(count_per_item(targets, loss_fn).sum())
        return math.fsum(map(float, values)) / draws, kept

    try:
        with torch.no_grad():
            drawn = loss_of(items) != loss_of(items)  # the model or the loss draws random numbers
            (whole, _), (first, n), (second, m) = (
                loss_of(part, DRAWS if drawn else 1) for part in (items, items[:half], items[half:])
            )
            inputs, targets = data.collate([(i, as_targets(t)) for i, t in items[:half]])
            sums_targets = adds_up(loss_fn, call_model(model, inputs), targets)
    except Exception:  # the model may refuse a small batch; the check of whole batches follows
        return []
    finally:
        model.train(training)
    if abs(first + second - whole) <= (0.2 if drawn else 0.01) * abs(whole):
        raise FlopsFitError(
            f"loss.function: {name} is a sum over items: the loss of a batch is {whole:.4g}, and the "
            f"losses of its halves are {first:.4g} and {second:.4g}; allowed: the mean over targets"
        )
    if sums_targets:
        raise FlopsFitError(
            f"loss.function: {name} is a sum over the targets of an item: half of the targets give "
            "about half of its value; allowed: the mean over targets"
        )
    if drawn or not n + m:
        return []
    rounding = max(0.001, 4 * max(digits))  # of a loss in bfloat16, for one
    if abs((n * first + m * second) / (n + m) - whole) <= rounding * abs(whole):
        return []
    reason = (
        f"loss.function: {name} is not a mean over items: for {len(items)} items it is {whole:.4g}, for "
        f"their halves {first:.4g} and {second:.4g}"
    )
    if part is not None:
        raise FlopsFitError(
            f"{reason}; resources.processes and resources.micro_batch_items split a batch into parts "
            f"of {part} items, which would change the result; allowed: whole batches (processes: 1, "
            "micro_batch_items: null), or a mean over items"
        )
    return [
        f"{reason}; its value depends on the batch size, so compare only runs with the same batch size"
    ]
