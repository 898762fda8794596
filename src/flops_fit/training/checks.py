"""Checks before the first step: devices, amounts of data, and the contracts of plug-ins."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, parse_flag_from_env
from torch import nn
from torch.utils._pytree import tree_leaves

from flops_fit.data import Data, as_targets, bytes_per_token, length_of
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.build import (
    load_data,
    load_loss,
    load_metrics,
    make_model,
    make_optimizer,
)
from flops_fit.experiment.options import TrainOptions, part_of_batch
from flops_fit.experiment.spec import Spec, options_of
from flops_fit.loss import ignore_index_of, masks_targets
from flops_fit.model_factory import call_model
from flops_fit.optimizer import as_one_optimizer, check_optimizer
from flops_fit.plan.amounts import CheckedData
from flops_fit.plan.counting import CPU_PARAMS
from flops_fit.plan.items import Items, check_items, known_amount, leading_items
from flops_fit.plan.price import PLAN_HINT
from flops_fit.plugins.resolve import add_search_paths, one_line
from flops_fit.training.batches import GlobalBatches
from flops_fit.training.doubts import (
    doubts_about_data,
    doubts_about_model,
    doubts_about_optimizer,
    doubts_about_seed,
)
from flops_fit.training.mean import check_mean

SAMPLED_ITEMS = 256  # items of each part of the data that are inspected
STEP_ITEMS = 8  # items of a batch in the two trial steps, which test the code, not the machine
PARTIAL_ITEMS = 32  # more than one, because the loss may ignore all targets of an item
SHARDING = {DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM}


def check_accelerator(accelerator: Accelerator, options: TrainOptions) -> None:
    """Check that ``accelerator`` has the devices, processes and precision that ``options`` ask for.

    ``accelerate launch --cpu --num_processes 2`` silently runs one process, and fp16 on a CPU
    silently trains in fp32. Raises `FlopsFitError` that names the setting.
    """
    world = accelerator.num_processes
    if options.processes is not None and world != options.processes:
        raise FlopsFitError(
            f"resources.processes: {options.processes} requested, but {world} running; launch with "
            "`flops-fit train`, or with accelerate's --multi_gpu and ACCELERATE_USE_CPU=true"
        )
    seen = 0 if accelerator.device.type == "cpu" else torch.accelerator.device_count()
    if seen < options.gpus and not parse_flag_from_env("ACCELERATE_USE_CPU"):
        raise FlopsFitError(
            f"resources.gpus: {options.gpus} given, but the job sees {seen or 'none'}; check the driver "
            "and CUDA_VISIBLE_DEVICES, or set ACCELERATE_USE_CPU=true to train on the CPU on purpose"
        )
    if options.precision != "no" and not accelerator.native_amp:
        raise FlopsFitError(
            f"precision: {options.precision} is not available on {accelerator.device.type}; allowed: "
            "no, bf16"
        )
    if options.batch_items < world:
        raise FlopsFitError(
            f"batch: {options.batch_items} items are fewer than the {world} processes; allowed: a "
            f"global batch of at least {world} items, or at most {options.batch_items} processes"
        )
    if accelerator.distributed_type in SHARDING:
        raise FlopsFitError(
            f"accelerate: launched with {accelerator.distributed_type.value}; allowed: data-parallel "
            "training, in which every process holds the whole model"
        )


def check_amounts(options: TrainOptions, batches: GlobalBatches) -> None:
    """Check that ``batches`` pass over the data no more often than ``options.max_epochs`` allows.

    Raises `FlopsFitError` with the largest D that is allowed.
    """
    limit = options.max_epochs
    if limit is None or batches.items is None:
        return
    most = int(limit * batches.items)
    if batches.total_items > most:
        per_item = options.tokens / batches.total_items
        raise FlopsFitError(
            f"tokens: D = {options.tokens} needs {batches.total_items / batches.items:.3g} "
            f"passes over {batches.items} items; allowed: {limit:g} passes, D up to "
            f"{int(most * per_item)}; {PLAN_HINT}"
        )


def check_partial_item(
    model: nn.Module, data: Data, loss_fn: Callable, tokens: int, per_item: int
) -> None:
    """Check that the loss can ignore a part of an item, for a D that ends inside an item.

    D is ``tokens``, an item has ``per_item`` targets, and ``model``, ``data`` and ``loss_fn`` are
    used to try the loss. Raises `FlopsFitError` with the nearest values of D that are allowed.
    """
    inputs, targets = data.collate(leading_items(data, PARTIAL_ITEMS))
    with torch.no_grad():
        masks = masks_targets(loss_fn, call_model(model, inputs), targets)
    if not masks:
        low = tokens // per_item * per_item
        raise FlopsFitError(
            f"tokens: D = {tokens} ends inside an item of {per_item} targets, and the loss does not "
            f"ignore targets equal to {ignore_index_of(loss_fn)}; allowed: {low} or {low + per_item}"
        )


def check_inputs(spec: Spec, train: Callable[..., dict[str, Any]]) -> CheckedData:
    """Try data, model, loss and optimiser together on a real batch, at the size of ``spec``.

    ``train`` is the function of `flops_fit.trainer`; it takes two real steps and evaluates, so that
    an error which would end every job ends the check instead. Returns what is now known about the
    data. Raises `FlopsFitError` that says which part of the contract is broken.
    """
    add_search_paths(spec.search_paths)
    recipe = spec.plugins
    data = load_data(spec)
    loss_fn = load_loss(recipe.shared.loss.function)
    reference = recipe.shared.dataset.factory
    planned = planned_items(spec)
    items = check_items(reread(data, spec), loss_fn, planned, recipe.batches.last)
    if planned.ordinary and items.ordinary and items.tokens != planned.tokens:
        raise FlopsFitError(
            f"{reference}: an item has {items.tokens} target elements, but the plan was made with "
            f"{planned.tokens}; allowed: a dataset.example that returns an item of the same shape"
        )
    model = make_model(recipe)
    check_batch(model, data, loss_fn, reference)

    def optimizer_of(rate: float) -> torch.optim.Optimizer:
        return as_one_optimizer(make_optimizer(recipe, model, rate))

    try:
        check_optimizer(optimizer_of(recipe.learning_rate), model)
    except TypeError as error:
        raise FlopsFitError(f"{recipe.shared.optimizer.factory}: {error}") from None
    given = spec.resources
    part = part_of_batch(recipe.batches.last, given.processes, given.micro_batch_items)
    notes = [*data.notes, *check_mean(model, reread(data, spec), loss_fn, part)]
    notes += doubts_about_optimizer(optimizer_of, model, recipe.learning_rate)
    notes += doubts_about_model(model, reread(data, spec), loss_fn)
    if not data.read_once:
        notes += doubts_about_data(data)
    if spec.count.params_total <= CPU_PARAMS:
        notes += doubts_about_seed(lambda: make_model(recipe))
    take_two_steps(spec, reread(data, spec), loss_fn, items.tokens, train)
    if data.read_once:
        notes.append(
            f"{reference}: this is a generator, which can be read only once; a run that needs more "
            "items than it has will end with an error"
        )
    return CheckedData(
        notes=notes,
        read_once=data.read_once,
        **known_amount(items),
        heldout_items=None if data.is_stream else length_of(data.heldout),
        bytes_per_token=bytes_per_token(data.train),
    )


def planned_items(spec: Spec) -> Items:
    """Return what the plan of ``spec`` expects of an item."""
    tokens, per_position = spec.tokens_per_item, spec.count.flops_per_position
    return Items(
        tokens=tokens,
        positions=tokens * spec.count.flops_per_token / per_position if per_position else 0,
        ignored=spec.plugins.expected_items is not None,
        uneven=per_position is not None,
    )


def reread(data: Data, spec: Spec) -> Data:
    """Return ``data`` from their beginning; data that can be read only once are loaded by ``spec``."""
    return load_data(spec) if data.read_once else data


def take_two_steps(
    spec: Spec, data: Data, loss_fn: Callable, per_item: float, train: Callable[..., dict[str, Any]]
) -> None:
    """Train two small batches of ``data`` as the job of ``spec`` would, on the CPU, and evaluate one.

    Its metrics are measured too. An item has ``per_item`` target elements; ``loss_fn`` and ``train``
    are those of `check_inputs`. Raises `FlopsFitError` where a step fails.
    """
    options = options_of(spec)
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
            lambda: make_model(spec.plugins),
            data,
            loss_fn,
            lambda model, rate: make_optimizer(spec.plugins, model, rate),
            options,
            metrics=load_metrics(spec),
        )
    except FlopsFitError:
        raise
    except Exception as error:
        raise FlopsFitError(f"two trial steps of training failed: {one_line(error)}") from error


def check_batch(model: nn.Module, data: Data, loss_fn: Callable, reference: str) -> None:
    """Run a real batch of the training and of the held-out part of ``data``, forward and backward.

    ``model`` and ``loss_fn`` compute the loss; ``reference`` names the dataset in an error. Raises
    `FlopsFitError` that says which part of the contract is broken.
    """
    for part, name in ((data.train, "training"), (data.heldout, "held-out")):
        sample = sample_items(
            itertools.islice(iter(part), SAMPLED_ITEMS) if data.is_stream else part
        )
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
