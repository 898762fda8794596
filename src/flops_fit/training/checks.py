"""Checks before the first step: devices, amounts of data, and the contracts of plug-ins."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, parse_flag_from_env
from torch import nn

from flops_fit.data import Data, bytes_per_token, length_of
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
from flops_fit.plan.amounts import CheckedData
from flops_fit.plan.items import Items, check_items, known_amount, leading_items
from flops_fit.plan.price import PLAN_HINT
from flops_fit.plugins.resolve import add_search_paths
from flops_fit.training.batches import GlobalBatches
from flops_fit.training.doubts import doubts_about_imports
from flops_fit.training.tryout import Parts, take_two_steps, try_parts

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
    given = spec.resources
    parts = Parts(
        lambda: make_model(recipe),
        lambda: reread(data, spec),
        loss_fn,
        lambda model, rate: make_optimizer(recipe, model, rate),
        options_of(spec),
        spec.count.params_total,
        part_of_batch(recipe.batches.last, given.processes, given.micro_batch_items),
        reference,
        recipe.shared.optimizer.factory,
    )
    notes = [*data.notes, *try_parts(parts), *doubts_about_imports(recipe.references)]
    take_two_steps(parts, items.tokens, train, load_metrics(spec))
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
