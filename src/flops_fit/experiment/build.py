"""Build what a spec names: data, loss, model and optimiser, with one-line errors."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from flops_fit.data import Data, as_data
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.recipe import PluginRecipe
from flops_fit.experiment.spec import Spec
from flops_fit.model_factory import create_model
from flops_fit.plugins.resolve import one_line, resolve


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
    """The dataset of ``spec``, over its prepared files where there are any."""
    dataset = spec.plugins.shared.dataset
    kwargs = dict(dataset.kwargs)
    if spec.data_dir is not None:
        kwargs["data_dir"] = spec.data_dir
    return as_data(call(resolve(dataset.factory), dataset.factory, kwargs), dataset.factory)


def make_model(recipe: PluginRecipe) -> nn.Module:
    """The model of ``recipe`` at its size."""
    model = recipe.shared.model
    return create_model(resolve(model.factory), model.size_param, recipe.size, model.kwargs)


def make_optimizer(recipe: PluginRecipe, model: nn.Module, learning_rate: float) -> Any:
    """What the optimiser's factory of ``recipe`` returns for ``model`` and ``learning_rate``.

    Raises `FlopsFitError` that names the factory where it fails.
    """
    optimizer = recipe.shared.optimizer
    factory = resolve(optimizer.factory)
    try:
        return factory(model, learning_rate, **optimizer.kwargs)
    except FlopsFitError:
        raise
    except Exception as error:
        raise FlopsFitError(f"{optimizer.factory}: {one_line(error)}") from error
