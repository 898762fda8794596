"""What can be refused before the first step: devices, amounts of data, and contracts."""

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

from flops_fit.data import Data, as_targets, bytes_per_token
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.build import load_data, load_loss, make_model, make_optimizer
from flops_fit.experiment.options import TrainOptions
from flops_fit.experiment.spec import Spec, options_of
from flops_fit.loss import adds_up, count_per_item, ignore_index_of, masks_targets
from flops_fit.model_factory import call_model
from flops_fit.optimizer import as_one_optimizer, check_optimizer
from flops_fit.plan.amounts import CheckedData
from flops_fit.plan.items import Items, check_items, known_amount, leading_items
from flops_fit.plan.price import PLAN_HINT
from flops_fit.plugins.resolve import add_search_paths, one_line
from flops_fit.training.batches import GlobalBatches

LOOKED_AT = 256  # items of each part of the data
STEP_ITEMS = 8  # of a batch of the two steps, which test the code and not the machine
DRAWS = 16  # of a loss that is random
COMPARED = 8  # items whose loss is compared with those of their halves
PARTIAL_ITEMS = 32  # a single one may keep no target at all
SHARDING = {DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM}


def check_devices(accelerator: Accelerator, options: TrainOptions) -> None:
    """Refuse to run on other devices, processes or number formats than were asked for.

    ``accelerate launch --cpu --num_processes 2`` silently runs one process, and fp16 on a CPU
    silently trains in fp32.
    """
    world = accelerator.num_processes
    if options.processes is not None and world != options.processes:
        raise FlopsFitError(
            f"resources.processes: {options.processes} were asked for, but {world} runs; launch "
            "with `flops-fit train`, or with accelerate's --multi_gpu and ACCELERATE_USE_CPU=true"
        )
    if (
        options.gpus
        and accelerator.device.type == "cpu"
        and not parse_flag_from_env("ACCELERATE_USE_CPU")
    ):
        raise FlopsFitError(
            f"resources.gpus: the job was given {options.gpus} and sees none; check the driver and "
            "CUDA_VISIBLE_DEVICES, or set ACCELERATE_USE_CPU=true to train on the CPU on purpose"
        )
    if options.precision != "no" and not accelerator.native_amp:
        raise FlopsFitError(
            f"precision: {options.precision} is not offered by {accelerator.device.type}; allowed "
            "here: no, bf16"
        )
    if options.batch_items < world:
        raise FlopsFitError(
            f"batch: {options.batch_items} items are fewer than the {world} processes; allowed: a "
            f"global batch of {world} items or more, or at most {options.batch_items} processes"
        )
    if accelerator.distributed_type in SHARDING:
        raise FlopsFitError(
            f"accelerate: launched with {accelerator.distributed_type.value}; allowed: data-parallel "
            "training, in which every process holds the whole model"
        )


def check_amounts(options: TrainOptions, batches: GlobalBatches) -> None:
    """Refuse more passes over the data than ``max_epochs`` allows."""
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


def enable_activation_checkpointing(model: nn.Module) -> None:
    """Ask the model to recompute activations; only the model knows where that is worth it."""
    if not hasattr(model, "set_activation_checkpointing"):
        raise FlopsFitError(
            f"resources.activation_checkpointing: {type(model).__name__} has no method "
            "set_activation_checkpointing(enabled); allowed: false, or a model that has it"
        )
    model.set_activation_checkpointing(True)


def check_partial_item(model: nn.Module, data: Data, loss_fn, tokens: int, per_item: int) -> None:
    """Refuse a D that ends inside an item, unless the loss can ignore the item's other targets."""
    inputs, targets = data.collate(leading_items(data, PARTIAL_ITEMS))
    with torch.no_grad():
        masks = masks_targets(loss_fn, call_model(model, inputs), targets)
    if not masks:
        low = tokens // per_item * per_item
        raise FlopsFitError(
            f"tokens: D = {tokens} ends inside an item of {per_item} targets, and the loss does not "
            f"ignore targets of {ignore_index_of(loss_fn)}; allowed: {low} or {low + per_item}"
        )


def check_inputs(spec: Spec, train: Callable[..., dict[str, Any]]) -> CheckedData:
    """Try one real batch at the size of ``spec``: data, model, loss and optimiser together.

    ``train`` is the trainer's, which takes two real steps and evaluates: what would end every job
    ends here. Returns what is known of the data from then on. Raises `FlopsFitError` that says which
    part of the contract is broken.
    """
    add_search_paths(spec.search_paths)
    recipe = spec.recipe
    data = load_data(spec)
    loss_fn = load_loss(recipe.shared.loss.function)
    reference = recipe.shared.dataset.factory
    planned = planned_items(spec)
    items = check_items(reread(data, spec), loss_fn, planned, recipe.batch_items)
    if planned.ordinary and items.ordinary and items.tokens != planned.tokens:
        raise FlopsFitError(
            f"{reference}: an item has {items.tokens} target elements, the plan was made with "
            f"{planned.tokens}; dataset.example must return an item of the same shape"
        )
    model = make_model(recipe)
    check_batch(model, data, loss_fn, reference)
    try:
        optimizer = as_one_optimizer(make_optimizer(recipe, model, recipe.learning_rate))
    except TypeError as error:
        raise FlopsFitError(f"{recipe.shared.optimizer.factory}: {error}") from None
    check_optimizer(optimizer, model)
    notes = [*data.notes, *check_mean(model, reread(data, spec), loss_fn)]
    take_two_steps(spec, reread(data, spec), loss_fn, items.tokens, train)
    if data.read_once:
        notes.append(
            f"{reference}: is a generator, which can be read once; a run that needs more items "
            "than it has will end in an error"
        )
    return CheckedData(
        notes=notes,
        read_once=data.read_once,
        **known_amount(items),
        heldout_items=None if data.is_stream else len(data.heldout),
        bytes_per_token=bytes_per_token(data.train),
    )


def planned_items(spec: Spec) -> Items:
    """What the plan of ``spec`` expects of an item."""
    tokens, per_position = spec.tokens_per_item, spec.count.flops_per_position
    return Items(
        tokens=tokens,
        positions=tokens * spec.count.flops_per_token / per_position if per_position else 0,
        ignored=spec.recipe.expected_items is not None,
        uneven=per_position is not None,
    )


def reread(data: Data, spec: Spec) -> Data:
    """The same ``data`` from their beginning: what can be read once is made again, from ``spec``."""
    return load_data(spec) if data.read_once else data


def take_two_steps(
    spec: Spec, data: Data, loss_fn: Callable, per_item: float, train: Callable[..., dict[str, Any]]
) -> None:
    """Train two small batches of ``data`` as the job of ``spec`` would, on the CPU, and evaluate one.

    ``per_item``: target elements of an item; ``loss_fn`` and ``train`` as in `check_inputs`. Raises
    `FlopsFitError` where it fails.
    """
    options = options_of(spec)
    few = math.ceil(STEP_ITEMS / min(per_item, 1))  # enough to keep a target in each step
    items = min(options.batch_items, few, data.unique_items or few)
    options = replace(
        options,
        tokens=math.ceil(2 * items * per_item),
        batch_items=items,
        max_epochs=None,
        expected_items=None if options.expected_items is None else 2 * items,
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
            lambda: make_model(spec.recipe),
            data,
            loss_fn,
            lambda model, rate: make_optimizer(spec.recipe, model, rate),
            options,
        )
    except FlopsFitError:
        raise
    except Exception as error:
        raise FlopsFitError(f"two steps of training fail: {one_line(error)}") from error


def check_mean(model: nn.Module, data: Data, loss_fn: Callable) -> list[str]:
    """Compare the loss of some items with those of their halves: is it the mean over targets?

    Raises `FlopsFitError` for a sum, over items or over the targets of an item. Returns a note where
    it is neither sum nor mean, as with losses that compare the items of a batch with each other.
    """
    items = (
        list(itertools.islice(iter(data.train), COMPARED))
        if data.is_stream
        else [data.train[i] for i in range(min(COMPARED, len(data.train)))]
    )
    half = len(items) // 2
    if half < 1:
        return []
    items = items[: 2 * half]
    name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
    training = model.training
    model.eval()  # no dropout, and no item's numbers in another's

    def loss_of(part: list, draws: int = 1) -> tuple[float, int]:
        inputs, targets = data.collate([(i, as_targets(t)) for i, t in part])
        values = [float(loss_fn(call_model(model, inputs), targets)) for _ in range(draws)]
        return math.fsum(values) / draws, int(count_per_item(targets, loss_fn).sum())

    try:
        with torch.no_grad():
            drawn = loss_of(items) != loss_of(items)  # the model or the loss draws random numbers
            (whole, _), (first, n), (second, m) = (
                loss_of(part, DRAWS if drawn else 1) for part in (items, items[:half], items[half:])
            )
            inputs, targets = data.collate([(i, as_targets(t)) for i, t in items[:half]])
            sums_targets = adds_up(loss_fn, call_model(model, inputs), targets)
    except Exception:  # a model that refuses one item alone is no reason to stop: batches pass
        return []
    finally:
        model.train(training)
    if abs(first + second - whole) <= (0.2 if drawn else 0.01) * abs(whole):
        raise FlopsFitError(
            f"loss.function: {name} is a sum: the loss of a batch of 2n items is twice that of n "
            f"({whole:.4g}, and its halves {first:.4g} and {second:.4g}); allowed: the mean over targets"
        )
    if sums_targets:
        raise FlopsFitError(
            f"loss.function: {name} sums over the targets of an item: half of the targets have about "
            "half of its value; allowed: the mean over targets"
        )
    if drawn or not n + m:
        return []
    if abs((n * first + m * second) / (n + m) - whole) <= 0.001 * abs(whole):
        return []
    return [
        f"loss.function: {name} is no mean over items: of {len(items)} items it is {whole:.4g}, of "
        f"their halves {first:.4g} and {second:.4g}; its value depends on the "
        "batch, so compare runs of one batch size only"
    ]


def check_batch(model: nn.Module, data: Data, loss_fn, reference: str) -> None:
    """Run one real batch forward and backward; the error names the contract that it breaks."""
    for part, name in ((data.train, "training"), (data.heldout, "held-out")):
        seen = looked_at(itertools.islice(iter(part), LOOKED_AT) if data.is_stream else part)
        inputs, targets = data.collate([(i, as_targets(t)) for i, t in telling_items(seen)])
        if targets_are_lost([targets, *(target for _, target in seen)]):
            raise FlopsFitError(
                f"{reference}: {name} targets hold values that are not finite; allowed: finite numbers"
            )
        try:
            outputs = call_model(model, inputs)
        except Exception as error:
            raise FlopsFitError(
                f"{reference}: the model refuses a {name} batch ({span(inputs)}): {one_line(error)}"
            ) from error
        try:
            loss = loss_fn(outputs, targets)
        except Exception as error:
            raise FlopsFitError(
                f"{reference}: the loss refuses a {name} batch (targets {span(targets)}): "
                f"{one_line(error)}"
            ) from error
        check_loss(loss, loss_fn)
    loss.backward()


def targets_are_lost(targets) -> bool:
    """Whether targets hold NaN or infinity, which no loss survives."""
    return any(
        leaf.is_floating_point() and not bool(torch.isfinite(leaf).all())
        for leaf in map(torch.as_tensor, tree_leaves(targets))
    )


def looked_at(part) -> list:
    """`LOOKED_AT` items spread over ``part``, or all of what has no length."""
    if hasattr(part, "__len__"):
        last, steps = len(part) - 1, LOOKED_AT - 1
        part = [part[i] for i in sorted({last * i // steps for i in range(LOOKED_AT)})]
    return list(part)


def telling_items(items: list) -> list:
    """Of ``items`` the first, the last, and each extreme integer's.

    A token beyond the vocabulary may be rare; the first and the last item need not hold it.
    """
    told = {0, len(items) - 1}
    for leaves in zip(*(tree_leaves(tuple(item)) for item in items), strict=False):
        values = [integers(leaf) for leaf in leaves]
        with_values = [i for i, value in enumerate(values) if len(value)]
        if with_values:
            told.add(min(with_values, key=lambda i: values[i].min().item()))
            told.add(max(with_values, key=lambda i: values[i].max().item()))
    return [items[i] for i in sorted(told)]


def integers(leaf) -> torch.Tensor:
    """The integers of one leaf of an item, flat; empty for anything else."""
    if isinstance(leaf, int) or hasattr(leaf, "__array__"):
        values = torch.as_tensor(leaf).flatten()
        if not values.is_floating_point():
            return values
    return torch.empty(0)


def check_loss(loss, loss_fn) -> None:
    """The loss contract: one finite, positive scalar with a gradient."""
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
            "allowed: a loss that stays above zero, as the law L = E + A/N^alpha + B/D^beta does; to a "
            "log-likelihood add a constant"
        )
    if not loss.requires_grad:
        raise FlopsFitError(f"loss.function: {name} returned a value without a gradient")


def span(value) -> str:
    """Shape and range of a batch in words."""
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    return f"shape {tuple(value.shape)}, values {value.min().item():g} to {value.max().item():g}"
