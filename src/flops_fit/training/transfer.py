"""Take a few real steps at several sizes, and measure by how much the output of each layer changes."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from flops_fit.data import Data, as_targets, length_of
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.build import load_data, load_loss, make_model, make_optimizer
from flops_fit.experiment.places import DATA_MANIFEST
from flops_fit.experiment.spec import Spec
from flops_fit.model_factory import call_model
from flops_fit.optimizer import as_one_optimizer
from flops_fit.plan.transfer import Layer, Transfer, layer_of
from flops_fit.plugins.resolve import add_search_paths

BATCH_TOKENS = 1024  # target elements of a batch, about
SAMPLED = 65_536  # elements of an output that are compared
OUTPUT = "output"
Outputs = dict[str, list[Tensor]]  # samples of the outputs by the place of their layers


def transfer_of(
    spec: Spec, rates: Mapping[Any, float], steps: int, seeds: int, plan: str
) -> Transfer:
    """Take ``steps`` steps of the recipe of ``spec`` at the sizes in ``rates``, each with its rate.

    ``seeds`` are averaged; ``plan`` is the plan file of the sweep. Raises `FlopsFitError` where its
    data are not prepared yet, and as `measure_transfer` does.
    """
    if spec.data_dir is not None and not Path(spec.data_dir, DATA_MANIFEST).exists():
        raise FlopsFitError(
            f"{spec.data_dir}: the data are not prepared yet; prepare them with: "
            f"flops-fit prepare --plan {plan}"
        )
    add_search_paths(spec.search_paths)
    recipe = spec.plugins

    def build(size: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = make_model(replace(recipe, size=size))
        return model, as_one_optimizer(make_optimizer(recipe, model, rates[size]))

    return measure_transfer(
        build,
        list(rates),
        load_data(spec),
        load_loss(recipe.shared.loss.function),
        recipe.shared.model.size_param,
        list(rates.values()),
        steps,
        seeds,
        recipe.shared.optimizer.clip_norm,
    )


def measure_transfer(
    build: Callable[[Any], tuple[nn.Module, torch.optim.Optimizer]],
    sizes: Sequence[Any],
    data: Data,
    loss_fn: Callable,
    size_param: str,
    rates: Sequence[float] = (),
    steps: int = 10,
    seeds: int = 3,
    clip_norm: float | None = None,
) -> Transfer:
    """Train ``build(size)``, a model and its optimiser, for ``steps`` steps at each of ``sizes``.

    Every size sees the same batches of ``data`` with ``loss_fn``, at its peak rate, once for each of
    ``seeds``; gradients are clipped at ``clip_norm``. ``size_param`` and ``rates``, the learning rate
    of each size, stand in the result. Raises `FlopsFitError` where a loss is not finite, and where
    the model has no modules whose outputs can be watched.
    """
    measured: dict[str, tuple[list, list]] = {}
    kinds: dict[str, str] = {}
    params = []
    for seed, size in itertools.product(range(seeds), sizes):
        torch.manual_seed(seed)
        model, optimizer = build(size)
        if seed == 0:
            params.append(sum(p.numel() for p in model.parameters() if p.requires_grad))
        batches = _batches(data, steps + 1, seed)
        probe = batches.pop()[0]
        before = _watch(model, probe, kinds)
        _take_steps(model, optimizer, batches, loss_fn, clip_norm, size)
        after = _watch(model, probe, kinds)
        for name in before.keys() & after.keys():
            activations, changes = measured.setdefault(name, ([], []))
            pairs = zip(after[name], before[name], strict=True)
            activations.append(_rms(after[name]))
            changes.append(_rms([a - b for a, b in pairs]))
    whole = seeds * len(sizes)
    x = np.array(sizes, dtype=float)
    layers: list[Layer] = []
    for name, kind in kinds.items():
        rows = [np.array(part).reshape(seeds, -1) for part in measured.get(name, ((), ()))]
        if rows[0].size == whole:  # at every size
            layers.append(layer_of(name, kind, x, *rows))
    if not any(layer.name != OUTPUT and layer.change for layer in layers):
        raise FlopsFitError(
            f"model: {type(model).__name__} has no modules inside whose outputs can be watched at every "
            "size; allowed: a model that is made of torch modules, such as nn.Linear, and calls them"
        )
    return Transfer(size_param, list(sizes), params, list(rates), steps, seeds, layers)


def _batches(data: Data, count: int, seed: int) -> list[tuple[Any, Any]]:
    """So many batches of the training data, the same for every size, in an order of ``seed``."""
    first = data.train[0] if not data.is_stream else next(iter(data.train))
    per_item = max(sum(leaf.numel() for leaf in tree_leaves(as_targets(first[1]))), 1)
    items = max(-(-BATCH_TOKENS // per_item), 1)
    if data.is_stream:
        start = seed * count * items
        taken = list(itertools.islice(iter(data.train), start, start + count * items))
    else:
        length = length_of(data.train)
        order = np.random.default_rng(seed).integers(0, length, count * items)
        taken = [data.train[int(i)] for i in order]
    if len(taken) < count * items:
        raise FlopsFitError(
            f"dataset: {len(taken)} items are left, and {count} batches take {count * items}; allowed: "
            "fewer --steps or --seeds, or more data"
        )
    pairs = [(inputs, as_targets(targets)) for inputs, targets in taken]
    return [data.collate(pairs[i : i + items]) for i in range(0, len(pairs), items)]


def _take_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: list[tuple[Any, Any]],
    loss_fn: Callable,
    clip_norm: float | None,
    size: Any,
) -> None:
    model.train()
    for step, (inputs, targets) in enumerate(batches, 1):
        loss = loss_fn(call_model(model, inputs), targets)
        if not torch.isfinite(loss):
            raise FlopsFitError(
                f"size {size}: the loss is {loss.item()} at step {step}, so the learning rate is far "
                "too high there; allowed: a rate at which every size takes its steps, or fewer --steps"
            )
        optimizer.zero_grad()
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()


@torch.no_grad()
def _watch(model: nn.Module, inputs: Any, kinds: dict[str, str]) -> Outputs:
    """Samples of the outputs of all layers for ``inputs``; ``kinds`` gets their classes."""
    outputs: Outputs = {}
    seen: dict[int, Tensor] = {}  # by address, kept so that no other tensor gets it

    def keep(name: str) -> Callable:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            tensors = [t for t in tree_leaves(output) if isinstance(t, Tensor)]
            tensor = next((t for t in tensors if t.is_floating_point()), None)
            if tensor is None or (name == OUTPUT and tensor.data_ptr() in seen):
                return  # the model returns what its last layer does
            seen[tensor.data_ptr()] = tensor
            kinds.setdefault(name, type(module).__name__)
            outputs.setdefault(name, []).append(_sample(tensor))

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in _layers(model)]
    model.eval()
    try:
        call_model(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that have parameters of their own, the members of stacks, and the model itself.

    Each is named by its place, in which ``*`` stands for its depth in a stack. Norms are left out:
    the size of what they return is set.
    """
    stacks = {name for name, module in model.named_modules() if _is_stack(module)}
    layers = []
    for name, module in model.named_modules():
        parent, _, last = name.rpartition(".")
        has_weights = next(module.parameters(recurse=False), None) is not None
        watched = has_weights or (last.isdigit() and parent in stacks)
        if name and watched and "norm" not in type(module).__name__.lower():
            layers.append((_place(name, stacks), module))
    return [*layers, (OUTPUT, model)]


def _is_stack(module: nn.Module) -> bool:
    """Whether ``module`` holds layers of one kind, as the blocks of a transformer are."""
    children = list(module.children())
    kinds = {type(child) for child in children}
    return isinstance(module, nn.ModuleList | nn.Sequential) and len(kinds) == 1


def _place(name: str, stacks: set[str]) -> str:
    parts = name.split(".")
    places = [
        "*" if re.fullmatch(r"\d+", part) and ".".join(parts[:i]) in stacks else part
        for i, part in enumerate(parts)
    ]
    return ".".join(places)


def _sample(tensor: Tensor) -> Tensor:
    """Elements of ``tensor`` as a vector, always the same ones for one shape."""
    flat = tensor.detach().flatten().double()
    if flat.numel() <= SAMPLED:
        return flat
    chosen = torch.randint(flat.numel(), (SAMPLED,), generator=torch.Generator().manual_seed(0))
    return flat[chosen]


def _rms(tensors: list[Tensor]) -> float:
    return float(torch.cat(tensors).square().mean().sqrt())
