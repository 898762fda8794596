"""Build what a spec names: data, loss, model and optimiser, with one-line errors."""

import inspect
from typing import Any

from torch import nn

from flops_fit.data import Data, as_data
from flops_fit.errors import FlopsFitError
from flops_fit.model_factory import create_model
from flops_fit.plugins.resolve import one_line, resolve


def call(function, reference: str, kwargs: dict) -> Any:
    """Call a plug-in; an exception of its own becomes one line that names it."""
    try:
        return function(**kwargs)
    except FlopsFitError:
        raise
    except Exception as error:
        raise FlopsFitError(f"{reference}: {one_line(error)}") from error


def load_loss(reference: str):
    """The loss that ``reference`` names; a class is built without arguments."""
    loss = resolve(reference)
    return call(loss, reference, {}) if inspect.isclass(loss) else loss


def load_data(spec: dict) -> Data:
    """The spec's dataset, over its prepared files where there are any."""
    dataset = spec["identity"]["dataset"]
    kwargs = dict(dataset["kwargs"])
    if spec["data_dir"] is not None:
        kwargs["data_dir"] = spec["data_dir"]
    made = call(resolve(dataset["factory"]), dataset["factory"], kwargs)
    return as_data(made, dataset["factory"])


def make_model(spec: dict) -> nn.Module:
    """The spec's model at the spec's size."""
    model = spec["identity"]["model"]
    factory = resolve(model["factory"])
    return create_model(factory, model["size_param"], model["size"], model["kwargs"])


def make_optimizer(spec: dict, model: nn.Module, learning_rate: float):
    """What the spec's optimiser factory returns for ``model``."""
    optimizer = spec["identity"]["optimizer"]
    factory = resolve(optimizer["factory"])
    try:
        return factory(model, learning_rate, **optimizer["kwargs"])
    except FlopsFitError:
        raise
    except Exception as error:
        raise FlopsFitError(f"{optimizer['factory']}: {one_line(error)}") from error
