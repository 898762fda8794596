"""How fast this machine trains the model of a sweep: a few real steps at several sizes."""

import math
import time
from typing import Any

import numpy as np
import torch
from accelerate.utils import convert_to_fp32
from scipy.optimize import nnls
from torch.utils.data import default_collate

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.build import load_loss, make_model, make_optimizer
from flops_fit.experiment.recipe import PluginRecipe, recipe_kind
from flops_fit.experiment.script_recipe import ScriptRecipe
from flops_fit.experiment.spec import Spec
from flops_fit.model_factory import call_model, enable_activation_checkpointing
from flops_fit.plan.devices import device_name
from flops_fit.plan.items import batches
from flops_fit.plan.one_pass import moved
from flops_fit.plan.planning import example_item, plan_data
from flops_fit.plan.price import Rate
from flops_fit.plugins.resolve import add_search_paths

SIZES = 4  # experiments that are tried, spread over the plan by FLOPs a step
WARM_UP, SECONDS = 2, 1.0  # steps before the clock starts, and how long it runs at most


def measure_rate(config: dict[str, Any], specs: list[Spec]) -> Rate:
    """How fast this machine trains ``specs``, the experiments of ``config``.

    Raises `FlopsFitError` where that cannot be measured.
    """
    return MEASURES[recipe_kind(config)](config, specs)


def _script_rate(config: dict[str, Any], specs: list[Spec]) -> Rate:
    raise FlopsFitError(
        "--measure: the steps of a script of your own cannot be timed alone; allowed: "
        "pricing.flops_per_second and pricing.step_seconds, from a run of it"
    )


def _plugin_rate(config: dict[str, Any], specs: list[Spec]) -> Rate:
    """Train some steps of ``specs`` on the device that ``resources.gpus`` of ``config`` asks for.

    Returns the rate, whose two numbers, seconds a step and FLOP/s beyond, fit the steps best in
    relative terms. A step is split, compiled and recomputed as that of a run. The batch is one of the
    data's, or repeats the example item. Raises `FlopsFitError` where a GPU is asked for and there is
    none.
    """
    add_search_paths(specs[0].search_paths)
    gpus, threads = config["resources"]["gpus"], config["resources"]["threads"]
    device = _device(gpus)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        tried = _spread(specs)
        flops = np.array([_flops(spec, math.prod(_passes(spec))) for spec in tried])
        seconds = np.array([_seconds_per_step(spec, config, device) for spec in tried])
    finally:
        torch.set_num_threads(before)
    rows = np.stack([np.ones_like(flops), flops], axis=1) / seconds[:, None]
    (step, per_flop), _ = nnls(rows, np.ones_like(flops))
    if per_flop == 0:  # the sizes do not differ in time: all of it belongs to the step
        per_flop = float(np.min(seconds / flops)) * 1e-3
    share = threads if device.type == "cpu" else 1
    return Rate(
        float(1 / per_flop / share),
        float(step),
        f"measured here on {device_name(device)}"
        + (f" with {threads} threads" if share > 1 else ""),
    )


MEASURES = {PluginRecipe: _plugin_rate, ScriptRecipe: _script_rate}


def _device(gpus: int) -> torch.device:
    if gpus == 0:
        return torch.device("cpu")
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device is None:
        raise FlopsFitError(
            f"resources.gpus: {gpus}, but this machine has none to measure; allowed: 0, or name "
            "pricing.device"
        )
    return device


def _spread(specs: list[Spec]) -> list[Spec]:
    ordered = sorted(specs, key=lambda spec: _flops(spec, _batch_items(spec)))
    places = np.linspace(0, len(ordered) - 1, SIZES).round().astype(int)
    return [ordered[i] for i in dict.fromkeys(places)]


def _passes(spec: Spec) -> tuple[int, int]:
    """How often a process passes through the model in a step, and the items of each pass."""
    share = -(-_batch_items(spec) // spec.resources.processes)
    passes = -(-share // (spec.resources.micro_batch_items or share))
    return passes, -(-share // passes)


def _flops(spec: Spec, items: int) -> float:
    return spec.count.spent_flops(items * spec.tokens_per_item)


def _batch_items(spec: Spec) -> int:
    """The global batch in items, the mean over the steps where it grows."""
    recipe = spec.recipe
    return recipe.batches.mean(recipe.tokens / spec.tokens_per_item, recipe.steps)


def _batch(config: dict[str, Any], items: int) -> tuple:
    """A batch of ``items`` of the data, or where they are not there yet of copies of the example."""
    data = plan_data(config["dataset"])
    if data is None:
        return default_collate([example_item(config, None)] * items)
    inputs, targets, _ = next(batches(data, items, 1))
    return inputs, targets


def _seconds_per_step(spec: Spec, config: dict[str, Any], device: torch.device) -> float:
    passes, items = _passes(spec)
    inputs, targets = moved(_batch(config, items), device)
    model = make_model(spec.plugins).to(device).train()
    if spec.resources.activation_checkpointing:
        enable_activation_checkpointing(model)
    loss_fn = load_loss(config["loss"]["function"])
    optimizers = make_optimizer(spec.plugins, model, spec.recipe.learning_rate)
    optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config["precision"])
    if spec.resources.compile:
        torch.compiler.reset()  # each size is a model of its own
        model.compile()

    def step() -> None:
        for _ in range(passes):
            with torch.autocast(device.type, precision, enabled=precision is not None):
                outputs = call_model(model, inputs)
            # the loss is outside, and in fp32, as accelerate has it
            if precision is not None:
                outputs = convert_to_fp32(outputs)
            loss_fn(outputs, targets).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def clock() -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter()

    for _ in range(WARM_UP):
        step()
    started, steps = clock(), 0
    while steps == 0 or time.perf_counter() - started < SECONDS:
        step()  # nobody waits for a GPU between the steps of a run either
        steps += 1
    return (clock() - started) / steps
