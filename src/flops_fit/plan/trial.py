"""The plug-ins tried at the smallest size while a sweep is planned: what they use, how they behave."""

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import default_collate

from flops_fit.experiment.build import load_loss
from flops_fit.model_factory import batch_norms, call_model, create_model, create_on_meta
from flops_fit.optimizer import as_one_optimizer, build_optimizer, has_modes
from flops_fit.plugins.resolve import resolve
from flops_fit.sweep import ModelCount

MOST_PARAMS = 20_000_000  # a larger smallest model is not built before it is trained


def try_plugins(config: dict, size: Any, count: ModelCount, example: tuple[Any, Any]) -> None:
    """Build a model and its optimiser on the CPU and pass two items.

    To see what they import and open. The plug-ins are those of ``config``, the model has ``size``
    and the items are copies of ``example``. A model with too many parameters, by its ``count``, is
    not built. Whatever fails here is for the check to name, which runs before any training.
    """
    if count.params_total > MOST_PARAMS:
        return
    model_config, optimizer = config["model"], config["optimizer"]
    # Compiling takes minutes, and imports and opens what eager code does.
    with contextlib.suppress(Exception), torch.compiler.set_stance("force_eager"):
        factory = resolve(model_config["factory"])
        model = create_model(factory, model_config["size_param"], size, model_config["kwargs"])
        build_optimizer(resolve(optimizer["factory"]), model, 1e-3, **_arguments(config))
        inputs, targets = default_collate([example] * 2)
        load_loss(config["loss"]["function"])(call_model(model, inputs), targets).backward()


def _arguments(config: dict) -> dict[str, Any]:
    """The arguments of the optimiser of ``config``, with some weight decay where the sweep sets it."""
    kwargs = config["optimizer"]["kwargs"]
    return kwargs if config["weight_decay"] is None else {**kwargs, "weight_decay": 0.1}


@dataclass(frozen=True)
class Behaviour:
    """What the model and the optimiser show once they are built.

    ``modes``: whether the optimiser is switched between training and evaluation, as schedule-free
    ones are. ``norms``: the names of the layers that normalise over a batch.
    """

    modes: bool = False
    norms: tuple[str, ...] = ()


def behaviour_of(config: dict, size: Any) -> Behaviour:
    """How the model of ``config`` at ``size`` and its optimiser behave.

    Runs of schedule-free optimisers were once evaluated on other weights, and layers that normalise
    over a batch see only a part of it where it is split, so both are part of what a run is.
    """
    model, optimizer = config["model"], config["optimizer"]
    make = resolve(optimizer["factory"])
    for create in (create_on_meta, create_model):
        try:
            built = create(resolve(model["factory"]), model["size_param"], size, model["kwargs"])
            made = build_optimizer(make, built, 1e-3, **_arguments(config))
            return Behaviour(has_modes(as_one_optimizer(made)), batch_norms(built))
        except Exception:  # the check of the inputs says what is wrong with it
            continue
    return Behaviour()
