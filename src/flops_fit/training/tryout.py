"""Try the user's parts together: one real batch, two steps, and what they may mean unseen."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from flops_fit.data import Data, as_pair, as_targets
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.build import Metric
from flops_fit.experiment.options import TrainOptions
from flops_fit.model_factory import call_model
from flops_fit.optimizer import as_one_optimizer, check_optimizer
from flops_fit.plan.counting import CPU_PARAMS
from flops_fit.plugins.resolve import one_line, one_line_errors
from flops_fit.training.doubts import (
    doubts_about_data,
    doubts_about_model,
    doubts_about_modes,
    doubts_about_optimizer,
    doubts_about_seed,
)
from flops_fit.training.mean import check_mean

SAMPLED_ITEMS = 256  # items of each part of the data that are inspected
STEP_ITEMS = 8  # items of a batch in the two trial steps, which test the code, not the machine


@dataclass(frozen=True)
class Parts:
    """The user's parts that are tried together, as functions that build them anew.

    ``build_model()`` and ``build_optimizer(model, rate)`` are those of `flops_fit.trainer.train`, and
    ``data()`` returns data from their beginning. ``loss_fn`` and ``options`` are those of the run, whose
    model has ``params_total`` parameters; ``part`` is how many items of a batch pass the model together
    (None: all). ``dataset`` and ``optimizer`` name these two in errors.
    """

    build_model: Callable[[], nn.Module]
    data: Callable[[], Data]
    loss_fn: Callable[..., Any]
    build_optimizer: Callable[[nn.Module, float], Any]
    options: TrainOptions
    params_total: int
    part: int | None = None
    dataset: str = "dataset"
    optimizer: str = "optimizer"


def try_parts(parts: Parts) -> list[str]:
    """Try ``parts`` on a real batch, and return notes on what may mean something else than it seems.

    Raises `FlopsFitError` that says which part of the contract is broken.
    """
    data, loss_fn, rate = parts.data(), parts.loss_fn, parts.options.learning_rate
    model = parts.build_model()
    modes = doubts_about_modes(model)
    with no_new_parameters(model):
        check_batch(model, parts.data(), loss_fn, parts.dataset)
    check_loss_parameters(loss_fn)

    def optimizer_of(rate: float) -> torch.optim.Optimizer:
        return as_one_optimizer(parts.build_optimizer(model, rate))

    try:
        check_optimizer(optimizer_of(rate), model)
    except TypeError as error:
        raise FlopsFitError(f"{parts.optimizer}: {error}") from None
    notes = [*modes, *check_mean(model, parts.data(), loss_fn, parts.part)]
    notes += doubts_about_optimizer(optimizer_of, model, rate)
    notes += doubts_about_model(model, parts.data(), loss_fn)
    if not data.read_once:
        notes += doubts_about_data(data)
    if parts.params_total <= CPU_PARAMS:
        check_built_anew(parts.build_model, model)
        notes += doubts_about_seed(parts.build_model)
    return notes


def take_two_steps(
    parts: Parts,
    per_item: float,
    train: Callable[..., dict[str, Any]],
    metrics: Mapping[str, Metric] | None = None,
) -> None:
    """Train two small batches of ``parts`` as a run would, on the CPU, and evaluate one.

    The ``metrics`` are measured too. An item has ``per_item`` target elements; ``train`` is that of
    `check_inputs`. Raises `FlopsFitError` where a step fails.
    """
    options, data = parts.options, parts.data()
    few = math.ceil(STEP_ITEMS / min(per_item, 1))  # enough items for a kept target in each step
    items = min(options.batch_items, few, data.unique_items or few)
    options = replace(
        options,
        tokens=math.ceil(2 * items * per_item),
        batch_items=items,
        max_epochs=None,
        expected_items=None if options.expected_items is None else 2 * items,
        batch_growth=[],
        progress=False,
        evaluation_batch_items=items,
        evaluation_tokens=math.ceil(items * per_item),
        compile=False,
        log_with=None,
        precision="bf16" if options.precision == "bf16" else "no",
    )
    try:
        train(
            "check",
            parts.build_model,
            data,
            parts.loss_fn,
            parts.build_optimizer,
            options,
            metrics=metrics,
        )
    except FlopsFitError:
        raise
    except Exception as error:
        raise FlopsFitError(f"two trial steps of training failed: {one_line(error)}") from error


@contextlib.contextmanager
def no_new_parameters(model: nn.Module) -> Iterator[None]:
    """Refuse parameters that ``model`` creates within the block (raises `FlopsFitError`).

    The optimiser of a run is built before the first batch, so it would never train them.
    """
    before = {id(parameter) for parameter in model.parameters()}
    yield
    new = [name for name, p in model.named_parameters() if id(p) not in before]
    if new:
        raise FlopsFitError(
            f"model: its forward creates parameters ({', '.join(new[:3])}{', ...' * (len(new) > 3)}), "
            "which the optimiser, made before the first batch, would never train; allowed: a model that "
            "creates all its parameters in __init__"
        )


def check_built_anew(build_model: Callable[[], nn.Module], model: nn.Module) -> None:
    """Check that ``build_model()`` makes another model than ``model``, without any of its weights.

    Raises `FlopsFitError` for trainable parameters that both have: the second run of a process would
    go on with what the first one has learned.
    """
    known = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    shared = [name for name, p in build_model().named_parameters() if id(p) in known]
    if shared:
        raise FlopsFitError(
            f"model: it shares parameters with the model that was built before "
            f"({', '.join(shared[:3])}{', ...' * (len(shared) > 3)}), so one run would go on with what "
            "another has learned; allowed: a factory that makes every trainable parameter anew (no "
            "cached model, and no module from outside of it)"
        )


def check_loss_parameters(loss_fn: Callable[..., Any]) -> None:
    """Refuse a ``loss_fn`` with parameters that got a gradient from a batch.

    The optimiser trains the parameters of the model alone. Raises `FlopsFitError` that names them.
    """
    if not isinstance(loss_fn, nn.Module):
        return
    trained = {name: p for name, p in loss_fn.named_parameters() if p.grad is not None}
    for parameter in trained.values():
        parameter.grad = None
    if trained:
        raise FlopsFitError(
            f"loss.function: {type(loss_fn).__name__} has trainable parameters ({', '.join(trained)}), "
            "but only those of the model are trained; allowed: a loss without them (let the model hold "
            "them, and return them with its outputs)"
        )


def check_batch(model: nn.Module, data: Data, loss_fn: Callable, reference: str) -> None:
    """Run a real batch of the training and of the held-out part of ``data``, forward and backward.

    ``model`` and ``loss_fn`` compute the loss; ``reference`` names the dataset in an error. Raises
    `FlopsFitError` that says which part of the contract is broken.
    """
    for part, name in ((data.train, "training"), (data.heldout, "held-out")):
        with one_line_errors(f"{reference}: a {name} item cannot be read"):
            sample = sample_items(
                itertools.islice(iter(part), SAMPLED_ITEMS) if data.is_stream else part
            )
        sample = [as_pair(item, f"a {name} item is") for item in sample]
        inputs, targets = data.collate([(i, as_targets(t)) for i, t in extreme_items(sample)])
        if has_nonfinite([targets, *(target for _, target in sample)]):
            raise FlopsFitError(
                f"{reference}: {name} targets have values that are not finite; allowed: finite numbers"
            )
        try:
            outputs = call_model(model, inputs)
        except Exception as error:
            raise FlopsFitError(
                f"{reference}: the model refuses a {name} batch ({describe_batch(inputs)}): "
                f"{one_line(error)}"
            ) from error
        try:
            loss = loss_fn(outputs, targets)
        except Exception as error:
            raise FlopsFitError(
                f"{reference}: the loss refuses a {name} batch (targets: {describe_batch(targets)}): "
                f"{one_line(error)}"
            ) from error
        check_loss(loss, loss_fn)
    loss.backward()


def has_nonfinite(targets: Any) -> bool:
    """Whether ``targets``, at any depth, contain NaN or infinity, which make every loss NaN."""
    return any(
        leaf.is_floating_point() and not bool(torch.isfinite(leaf).all())
        for leaf in map(torch.as_tensor, tree_leaves(targets))
    )


def sample_items(part: Any) -> list:
    """Return `SAMPLED_ITEMS` items spread evenly over ``part``, or all items where it has no length."""
    if hasattr(part, "__len__"):
        last, steps = len(part) - 1, SAMPLED_ITEMS - 1
        part = [part[i] for i in sorted({last * i // steps for i in range(SAMPLED_ITEMS)})]
    return list(part)


def extreme_items(items: list) -> list:
    """Return the first and the last of ``items``, and those with the smallest and largest integers.

    A token beyond the vocabulary may be rare, so the first items need not contain it.
    """
    chosen = {0, len(items) - 1}
    for leaves in zip(*(tree_leaves(tuple(item)) for item in items), strict=False):
        values = [integers(leaf) for leaf in leaves]
        with_values = [i for i, value in enumerate(values) if len(value)]
        if with_values:
            chosen.add(min(with_values, key=lambda i: values[i].min().item()))
            chosen.add(max(with_values, key=lambda i: values[i].max().item()))
    return [items[i] for i in sorted(chosen)]


def integers(leaf: Any) -> torch.Tensor:
    """Return the integers in ``leaf``, a leaf of an item, as a flat tensor; it may be empty."""
    if isinstance(leaf, int) or hasattr(leaf, "__array__"):
        values = torch.as_tensor(leaf).flatten()
        if not values.is_floating_point():
            return values
    return torch.empty(0)


def check_loss(loss: Any, loss_fn: Callable) -> None:
    """Check that ``loss``, which ``loss_fn`` returned, is a finite positive scalar with a gradient.

    Raises `FlopsFitError` that names the function and the value.
    """
    name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
    if not isinstance(loss, torch.Tensor) or loss.ndim != 0:
        shape = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise FlopsFitError(
            f"loss.function: {name} returned {shape}; allowed: a scalar, the mean over targets"
        )
    if not torch.isfinite(loss):
        raise FlopsFitError(
            f"loss.function: {name} is {loss.item()} on a real batch before any training; "
            "allowed: a finite number"
        )
    if loss <= 0:
        raise FlopsFitError(
            f"loss.function: {name} is {loss.item():.4g} on a real batch before any training; "
            "allowed: a loss that stays above zero, as the law L = E + A/N^alpha + B/D^beta does (add a "
            "constant to a log-likelihood)"
        )
    if not loss.requires_grad:
        raise FlopsFitError(
            f"loss.function: {name} returned a value without a gradient; allowed: a value with one"
        )


def describe_batch(value: Any) -> str:
    """Describe the tensor ``value`` by its shape and range, and anything else by its type."""
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    return f"shape {tuple(value.shape)}, values {value.min().item():g} to {value.max().item():g}"
