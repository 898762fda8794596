"""What the check of the inputs says about a sweep that can be trained, but may mean something else."""

import itertools
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from flops_fit.data import Data, as_targets, length_of
from flops_fit.model_factory import call_model
from flops_fit.plan.items import looking
from flops_fit.plugins.resolve import draw_at_import, split_reference

COMPARED = 128  # items of each part that are compared with those of the other
SHARED = 0.1  # share of the held-out items that may be among the training items by chance
READ_TWICE = 8  # held-out items
FEWEST_HELDOUT = 32  # items: as many as the split of a single dataset holds out at least
USUAL_WEIGHTS = ("float32", "complex64")
FEW_DIGITS = (torch.bfloat16, torch.float16)


def doubts_about_data(data: Data) -> list[str]:
    """Return notes on the held-out part of ``data``: too few items, or items of the training part."""
    with looking():
        return [*_few_heldout(data), *_shared_items(data), *_drawn_heldout(data)]


def doubts_about_model(model: nn.Module, data: Data, loss_fn: Callable) -> list[str]:
    """Return notes on ``model`` after a backward pass, and on its ``loss_fn`` on some of ``data``.

    They name parameters without a gradient, and a loss of few digits.
    """
    with looking(), torch.no_grad():
        items = [(inputs, as_targets(targets)) for inputs, targets in _first(data, data.train, 4)]
        inputs, targets = data.collate(items)
        loss = loss_fn(call_model(model, inputs), targets)
    notes = []
    if loss.dtype in FEW_DIGITS:
        notes.append(
            f"loss.function: its values are {str(loss.dtype).removeprefix('torch.')} numbers, which are "
            f"off by up to {100 * torch.finfo(loss.dtype).eps / 2:.1g}%; let it compute in float32 "
            "(outputs.float()), or set precision: bf16 and keep the weights in float32"
        )
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    kinds = {str(p.dtype).removeprefix("torch."): name for name, p in trained.items()}
    unusual = {kind: name for kind, name in kinds.items() if kind not in USUAL_WEIGHTS}
    for kind, name in unusual.items():
        notes.append(
            f"model: its parameters ({name}, for one) are {kind} numbers, "
            f"{'which lose small updates' if kind in ('bfloat16', 'float16') else 'which cost more'}, "
            "whatever the key precision says; it is meant for parameters in float32"
        )
    idle = [name for name, parameter in trained.items() if parameter.grad is None]
    if idle:
        count = sum(trained[name].numel() for name in idle)
        total = sum(parameter.numel() for parameter in trained.values())
        more = f" and {len(idle) - 1} more" if len(idle) > 1 else ""
        notes.append(
            f"model: {count} of {total} trainable parameters ({idle[0]}{more}) got no gradient from a "
            "batch; if they never do, freeze or remove them, since they count in params_total"
        )
    return notes


def doubts_about_imports(references: Iterable[str]) -> list[str]:
    """Return a note for each module of ``references`` that sets seeds or draws when it is imported."""
    modules = dict.fromkeys(split_reference(reference)[0] for reference in references)
    return [
        f"{module}: importing it sets a seed or draws random numbers. A run sets its seed too, before "
        "or after that import, so runs that differ in their seed alone may begin with the same weights; "
        "remove this from the module"
        for module in modules
        if module in draw_at_import
    ]


def doubts_about_modes(model: nn.Module) -> list[str]:
    """Return a note where parts of ``model``, as its factory returns it, are in evaluation mode."""
    parts = [name for name, part in model.named_modules() if not part.training]
    if not model.training or not parts:
        return []
    more = f" and {len(parts) - 1} more" if len(parts) > 1 else ""
    return [
        f"model: the factory puts {parts[0]}{more} into evaluation mode, but each run calls "
        "model.train(), which ends that (dropout draws, batch norm updates its statistics); to keep it, "
        "let the train() of the model leave these parts alone"
    ]


def doubts_about_seed(build_model: Callable[[], nn.Module]) -> list[str]:
    """Return a note where ``build_model()`` gives the same weights under every seed."""
    with looking():
        first, second = (_weights_of(build_model, seed) for seed in (1, 2))
    if any(not torch.equal(a, b) for a, b in zip(first, second, strict=True)):
        return []
    return [
        "model: its initial weights do not depend on the seed (does it call torch.manual_seed, or load "
        "weights?), so runs that differ in their seed alone show less than the noise between seeds"
    ]


def doubts_about_optimizer(
    make: Callable[[float], torch.optim.Optimizer], model: nn.Module, learning_rate: float
) -> list[str]:
    """Return notes on the optimiser that ``make(rate)`` returns for ``model``.

    They say whether it follows ``learning_rate``, and whether it holds all parameters.
    """
    optimizer = make(learning_rate)
    rates, others = (
        [float(group["lr"]) for group in made.param_groups]
        for made in (optimizer, make(2 * learning_rate))
    )
    notes = []
    if rates == others:
        fixed = ", ".join(f"{rate:g}" for rate in dict.fromkeys(rates))
        notes.append(
            f"optimizer: with a learning rate of {learning_rate:g} and of {2 * learning_rate:g} its "
            f"rates are the same ({fixed}), so it ignores the learning rate of the plan, which records "
            "name"
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    trainable = [p for p in model.parameters() if p.requires_grad]
    count, total = (
        sum(p.numel() for p in ps) for ps in ([p for p in trainable if id(p) in held], trainable)
    )
    if count < total:
        notes.append(
            f"optimizer: it holds {count} of {total} trainable parameters; the others stay as they were "
            "initialised, though they count as trained: freeze them (requires_grad_(False))"
        )
    return notes


def _weights_of(build_model: Callable[[], nn.Module], seed: int) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [parameter.detach() for parameter in build_model().parameters()]


def _few_heldout(data: Data) -> list[str]:
    if data.is_stream or (count := length_of(data.heldout)) >= FEWEST_HELDOUT:
        return []
    return [
        f"dataset: the held-out part has {count} {'item' if count == 1 else 'items'}, on which every "
        f"held-out loss rests; {FEWEST_HELDOUT} or more are better"
    ]


def _shared_items(data: Data) -> list[str]:
    heldout = {_content(item) for item in _first(data, data.heldout, COMPARED)}
    seen = {_content(item) for item in _first(data, data.train, COMPARED)}
    seen |= {_content(item) for item in _spread(data)}
    shared = len(heldout & seen)
    if shared <= SHARED * len(heldout):
        return []
    return [
        f"dataset: of the held-out items that were looked at, {shared} of {len(heldout)} different ones "
        "are training items, too; the held-out loss then says little about new data"
    ]


def _drawn_heldout(data: Data) -> list[str]:
    """A note where held-out items differ when they are read again, as augmented ones do.

    What torch draws is the same in every evaluation, so it is here.
    """
    reads = []
    for _ in range(2):
        torch.manual_seed(0)
        reads.append([_content(item) for item in _first(data, data.heldout, READ_TWICE)])
    if reads[0] == reads[1]:
        return []
    return [
        "dataset: held-out items differ each time they are read, so each run is evaluated on other "
        "items, and the law has their noise too; leave out what is random (augmentation) there"
    ]


def _first(data: Data, part: Any, count: int) -> Iterable[Any]:
    if data.is_stream:
        return itertools.islice(iter(part), count)
    return (part[i] for i in range(min(count, length_of(part))))


def _spread(data: Data) -> Iterable[Any]:
    """Training items spread over the data; none of a stream."""
    if data.is_stream:
        return ()
    last, train = length_of(data.train) - 1, data.train
    return (train[i] for i in sorted({last * i // (COMPARED - 1) for i in range(COMPARED)}))


def _content(item: Any) -> tuple[Any, ...]:
    """What an item holds, equal where items are equal."""
    return tuple(
        blake2b(leaf.cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()).digest()
        if isinstance(leaf, torch.Tensor)
        else repr(leaf)
        for leaf in tree_leaves(item)
    )
