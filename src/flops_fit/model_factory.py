"""Build the user's model at one size, count its parameters, and call it."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence

from flops_fit.errors import FlopsFitError
from flops_fit.plugins.resolve import check_arguments, one_line


def create_model(
    model_cls: Callable[..., nn.Module],
    size_param: str,
    size: Any,
    model_kwargs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Call ``model_cls(**{size_param: size}, **model_kwargs)`` and return the model.

    Raises `FlopsFitError` where ``model_cls`` has no such argument, where it fails (with the user's
    exception and its line), where it does not return a `torch.nn.Module`, and where the model has
    lazy layers.
    """
    kwargs = dict(model_kwargs or {})
    if isinstance(model_cls, nn.Module):
        raise FlopsFitError(
            f"model: a {type(model_cls).__name__} that is built already; allowed: its class, or a "
            f"function that returns one for a value of {size_param}"
        )
    name = getattr(model_cls, "__qualname__", repr(model_cls))
    check_arguments(model_cls, name, kwargs, "model.kwargs", supplied=(size_param,))
    try:
        model = model_cls(**{size_param: size}, **kwargs)
    except Exception as error:
        raise FlopsFitError(
            f"model: {name}({size_param}={size!r}) cannot be built: {one_line(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise FlopsFitError(
            f"model: {name}({size_param}={size!r}) returned a {type(model).__name__}, "
            "not a torch.nn.Module"
        )
    _check_shapes(model, f"{name}({size_param}={size!r})")
    _check_values(model, f"{name}({size_param}={size!r})")
    return model


def _check_values(model: nn.Module, name: str) -> None:
    """Refuse parameters without values, where they are to have some."""
    empty = [path for path, parameter in model.named_parameters() if parameter.is_meta]
    if empty and torch.get_default_device().type != "meta":
        raise FlopsFitError(
            f"model: {name} has parameters without values ({empty[0]}, on the meta device), since it "
            "returns a model or a part of one that was built before; allowed: a factory that makes "
            "every parameter anew (no cached model, and no module from outside of it)"
        )


def _check_shapes(model: nn.Module, name: str) -> None:
    """Refuse lazy layers, because N, memory and the optimiser need shapes before the first batch."""
    lazy = [
        (path, type(part).__name__)
        for path, part in model.named_modules()
        if any(map(is_lazy, [*part.parameters(False), *part.buffers(False)]))
    ]
    if lazy:
        layers = ", ".join(f"{path or 'the model'} ({kind})" for path, kind in lazy[:3])
        raise FlopsFitError(
            f"model: {name} has lazy layers, whose parameters are uninitialised until the first batch: "
            f"{layers}{', ...' if len(lazy) > 3 else ''}; allowed: layers with all sizes given, or a "
            "factory that passes one item through the model before it returns the model"
        )


def enable_activation_checkpointing(model: nn.Module) -> None:
    """Tell ``model`` to recompute activations; the model decides which ones.

    Raises `FlopsFitError` where it has no method ``set_activation_checkpointing``.
    """
    enable: Any = getattr(model, "set_activation_checkpointing", None)
    if enable is None:
        raise FlopsFitError(
            f"resources.activation_checkpointing: {type(model).__name__} has no method "
            "set_activation_checkpointing(enabled); allowed: false, or a model with this method"
        )
    enable(True)


def create_on_meta(
    model_cls: Callable[..., nn.Module],
    size_param: str,
    size: Any,
    model_kwargs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a model with `create_model` on the meta device, which stores shapes but no values.

    ``model_cls``, ``size_param``, ``size`` and ``model_kwargs`` are those of `create_model`. Raises
    `FlopsFitError` as `create_model` does, and also where the constructor reads the value of a
    tensor (``.item()``).
    """
    with torch.device("meta"):
        model = create_model(model_cls, size_param, size, model_kwargs)
    return model.to("meta")  # buffers made from NumPy arrays stay on the CPU


def num_params(model: nn.Module) -> int:
    """Return N: ``model.num_params()`` where the model has it, else its trainable parameters.

    Shared parameters count once. Raises `FlopsFitError` where ``num_params()`` fails or does not
    return a positive integer, and where ``model`` has no trainable parameters.
    """
    method = getattr(model, "num_params", None)
    name = type(model).__name__
    if not callable(method):
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if not count:
            raise FlopsFitError(f"model: {name} has no trainable parameters")
        return count
    try:
        value = method()
    except Exception as error:
        raise FlopsFitError(f"model: {name}.num_params() fails: {one_line(error)}") from error
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if isinstance(value, bool) or count <= 0:
        raise FlopsFitError(
            f"model: {name}.num_params() returned {value!r}, not a positive integer"
        )
    return count


def batch_norms(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the classes in ``model`` that normalise over the items of a batch."""
    norms = (type(m).__name__ for m in model.modules() if isinstance(m, _BatchNorm))
    return tuple(dict.fromkeys(norms))


def call_model(model: nn.Module, inputs: Any) -> Any:
    """Call ``model`` and return its output.

    ``inputs`` are passed as ``*inputs`` where they are a tuple or list, as ``**inputs`` where they
    are a mapping, and else as one argument, as a packed sequence is.
    """
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list) and not isinstance(inputs, PackedSequence):
        return model(*inputs)
    return model(inputs)
