"""Operators on the meta device, each computed once for each kind of input."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch


class MetaKernels:
    """Calls operators, and on the meta device remembers what they return.

    Many of torch's meta kernels are slow Python (milliseconds for a layer norm), and the layers of a
    model, or the steps of a recurrent one, repeat the same few.
    """

    def __init__(self) -> None:
        self.outputs: dict[tuple, object] = {}  # metadata of what meta kernels returned

    def run(self, func: Any, args: tuple, kwargs: dict, inputs: list[torch.Tensor]) -> Any:
        """The output of the operator ``func`` for ``args`` and ``kwargs``.

        ``inputs`` are the tensors in them, of any shape.
        """
        in_place = func._schema.is_mutable and torch.Tag.pointwise in func.tags
        if not (_all_on_meta(inputs) and (in_place or not _aliases(func))):
            return func(*args, **kwargs)
        signature = (func, _signature(args), _signature(tuple(kwargs.items())))
        if signature not in self.outputs:
            out = func(*args, **kwargs)
            if not in_place:
                self.outputs[signature] = _each(torch.Tensor, _Metadata.of, out)
            elif out is args[0]:
                self.outputs[signature] = None
            return out
        known = self.outputs[signature]
        return args[0] if in_place else _each(_Metadata, _Metadata.make, known)


@dataclass(frozen=True)
class _Metadata:
    """All there is to a tensor on the meta device."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "_Metadata":
        return cls(tensor.shape, tensor.stride(), tensor.dtype)

    def make(self) -> torch.Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors of any shape in ``value``, an operator's arguments or outputs.

    `torch.utils._pytree` is slower.
    """
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def _each(kind: type, function: Callable[[Any], Any], value: Any) -> Any:
    """``value`` with ``function`` done to each ``kind`` in it."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)(_each(kind, function, item) for item in value)
    return value


def _signature(value: Any) -> Any:
    """Hashable, and different where an operator could tell two arguments apart."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple(map(_signature, value))
    return type(value), value


def _all_on_meta(tensors: list[torch.Tensor]) -> bool:
    return bool(tensors) and all(tensor.is_meta for tensor in tensors)


@cache
def _aliases(func: Any) -> bool:
    """Whether an operator writes to its inputs, or returns views of them."""
    return any(value.alias_info for value in [*func._schema.arguments, *func._schema.returns])
