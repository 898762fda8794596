"""Build what a spec names: data, loss, model and optimiser, with one-line errors."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from flops_fit.data import Data, as_data, as_heldout
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.recipe import PluginRecipe
from flops_fit.experiment.spec import Spec
from flops_fit.model_factory import create_model
from flops_fit.optimizer import build_optimizer
from flops_fit.plugins.randomness import random_state, seeded
from flops_fit.plugins.resolve import one_line, resolve

# Of what a dataset's factory draws with NumPy or Python, such as a split: the same in every run.
DATA_SEED = 0


def call(function: Callable[..., Any], reference: str, kwargs: Mapping[str, Any]) -> Any:
    """Call the plug-in ``function`` with ``kwargs``.

    Raises `FlopsFitError` with one line that names ``reference`` where the plug-in fails.
    """
    try:
        return function(**kwargs)
    except FlopsFitError:
        raise
    except Exception as error:
        raise FlopsFitError(f"{reference}: {one_line(error)}") from error


def load_loss(reference: str) -> Callable[..., Any]:
    """The loss that ``reference`` names; a class is instantiated without arguments."""
    loss = resolve(reference)
    return call(loss, reference, {}) if inspect.isclass(loss) else loss


def load_data(spec: Spec) -> Data:
    """The whole dataset of ``spec``, over its prepared files where there are any."""
    dataset = spec.plugins.shared.dataset
    return as_data(_make_data(spec, dataset.factory, dataset.kwargs), dataset.factory)


def _make_data(spec: Spec, factory: str, kwargs: Mapping[str, Any]) -> Any:
    """What the ``factory`` of a dataset returns for ``kwargs`` and the prepared files of ``spec``."""
    prepared = {} if spec.data_dir is None else {"data_dir": spec.data_dir}
    with seeded(DATA_SEED):
        return call(resolve(factory), factory, {**kwargs, **prepared})


def make_seeded(
    factory: Callable[..., Any], reference: str, kwargs: Mapping[str, Any]
) -> tuple[Any, bool]:
    """Call the ``factory`` of a dataset with ``kwargs``; ``reference`` names it in an error.

    Returns what it makes under `DATA_SEED`, and whether that would be different under another seed.
    """
    moves = []
    for seed in (DATA_SEED + 1, DATA_SEED):
        with seeded(seed):
            before = random_state()
            made = call(factory, reference, kwargs)
            after = random_state()
        if after == before:  # it draws nothing
            return made, False
        moves.append([end for start, end in zip(before, after, strict=True) if end != start])
    return made, moves[0] != moves[1]  # else it seeds what it draws from


@dataclass(frozen=True)
class Metric:
    """A measure beside the loss: ``function(outputs, targets)``, over the held-out items of ``data``.

    ``data`` is None where these are the held-out items of the sweep.
    """

    function: Callable[..., Any]
    data: Data | None = None


def load_metrics(spec: Spec) -> dict[str, Metric]:
    """The metrics of ``spec`` by name."""
    metrics = {}
    for name, part in spec.plugins.shared.metrics.items():
        data = None
        if part.dataset is not None:
            data = as_heldout(_make_data(spec, part.dataset, part.kwargs), part.dataset)
        metrics[name] = Metric(load_loss(part.function), data)
    return metrics


def seen_data(spec: Spec) -> Data:
    """The data that the run of ``spec`` sees: all, or a fraction of the training items."""
    fraction = spec.plugins.unique_fraction
    data = load_data(spec)
    return data if fraction is None else data.fraction(fraction, spec.plugins.seed)


def make_model(recipe: PluginRecipe) -> nn.Module:
    """The model of ``recipe`` at its size."""
    model = recipe.shared.model
    return create_model(resolve(model.factory), model.size_param, recipe.size, model.kwargs)


def make_optimizer(recipe: PluginRecipe, model: nn.Module, learning_rate: float) -> Any:
    """What the optimiser's factory of ``recipe`` returns for ``model`` and ``learning_rate``.

    Raises `FlopsFitError` that names the factory where it fails.
    """
    optimizer = recipe.shared.optimizer
    factory, kwargs = resolve(optimizer.factory), optimizer.kwargs
    if recipe.weight_decay is not None:
        kwargs = {**kwargs, "weight_decay": recipe.weight_decay}
    try:
        return build_optimizer(factory, model, learning_rate, **kwargs)
    except FlopsFitError:
        raise
    except Exception as error:
        raise FlopsFitError(f"{optimizer.factory}: {one_line(error)}") from error
