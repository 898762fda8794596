"""FLOPs and parameters, followed from operator to operator through a forward and backward pass."""

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry, sdpa_flop_count

from flops_fit.plan.meta_kernels import MetaKernels, tensors_in

aten = torch.ops.aten

# Formulas that torch's registry lacks, or has wrong; all take the operator's own arguments.


def _conv_backward_flops(
    grad_out: Any, x: Any, weight: Any, *args: Any, out_val: Any = None
) -> int:
    """Each gradient costs a forward pass; torch 2.13's formula forgets the groups."""
    transposed, output_mask = args[4], args[7]
    forward = conv_flop_count(x.shape, weight.shape, grad_out.shape, transposed)
    return forward * sum(output_mask[:2])


def _grouped_mm_flops(a: Any, b: Any, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    """Rows of ``a`` [n, k] each meet one matrix of ``b`` [groups, k, m]; gradients alike."""
    groups = a.shape[0] if (a.dim(), b.dim()) == (3, 2) else 1
    return 2 * a.numel() * b.shape[-1] // groups


def _mv_flops(matrix: Any, vector: Any, out_val: Any = None) -> int:
    return 2 * matrix.numel()


def _attention_flops(
    query: Any, key: Any, value: Any, *args: Any, out_val: Any = None, **kwargs: Any
) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward_flops(
    grad_out: Any, query: Any, key: Any, value: Any, *args: Any, out_val: Any = None, **kwargs: Any
) -> int:
    """Two products for each of the forward pass; torch adds the scores, computed again."""
    return 2 * sdpa_flop_count(query.shape, key.shape, value.shape)


FORMULAS = {
    aten.convolution_backward: _conv_backward_flops,
    aten._grouped_mm: _grouped_mm_flops,
    aten.mv: _mv_flops,
    # for models that choose their attention kernel themselves
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    aten._scaled_dot_product_flash_attention_backward: _attention_backward_flops,
    aten._scaled_dot_product_efficient_attention_backward: _attention_backward_flops,
    aten._scaled_dot_product_cudnn_attention_backward: _attention_backward_flops,
}

WITH_ADDEND = {aten.addmm, aten.baddbmm}
GATHERS = {aten.index, aten.index_select, aten.gather, aten.masked_select, aten.embedding}
SCATTERS = {
    *(aten.index_put, aten.index_put_, aten.index_add, aten.index_add_, aten.index_copy),
    *(aten.scatter, aten.scatter_, aten.scatter_add, aten.scatter_add_, aten.masked_scatter),
}
CONSTANTS = {  # whatever tensor they are given
    *(aten.lift_fresh, aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like),
    *(aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty),
}
REDUCTIONS = {aten.sum, aten.mean, aten.amax, aten.max}
FREE = {  # take matrices of parameters, do no product
    *(aten.embedding, aten._embedding_bag, aten.cat, aten.stack, aten.copy_, aten.repeat),
    *(aten.native_layer_norm, aten._fused_rms_norm, aten.native_batch_norm),
    *(aten.native_group_norm, aten.constant_pad_nd),
}


@dataclass(frozen=True)
class _Origin:
    """Where a tensor's values come from; all views of a storage share one.

    Attributes:
        weights: the parameters it was computed from, if from nothing but parameters and
            constants; None for data.
        product: the weights of the last products behind it.
        positions: how many positions met these weights.
        chosen: if the model chose these positions (or these weights): among how many.
    """

    weights: frozenset[int] | None = None
    product: frozenset[int] = frozenset()
    positions: float = 0
    chosen: float = 0


DATA = _Origin()
CONSTANT = _Origin(weights=frozenset())


class FlopTracker(TorchDispatchMode):
    """Adds up the FLOPs of ``model``, and follows its parameters to the products that they enter."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.flops = 0
        self.in_forward = True  # to be set to False before backward
        self.unknown: set[str] = set()  # operators that use parameters in ways unknown
        self.tables: set[int] = set()  # parameters that are looked up by row
        self.shares: dict[int, float] = defaultdict(float)  # of the positions that met a weight
        self.features: dict[int, int] = {}  # width of what a weight makes
        self.parameters = {id(p): p for p in model.parameters()}
        self.kernels = MetaKernels()
        # By storage. A weak reference keeps its address from being given to another.
        self.origins: dict[int, tuple[StorageWeakRef, _Origin]] = {}
        for buffer in model.buffers():
            self._set(buffer, CONSTANT)
        for key, parameter in self.parameters.items():
            self._set(parameter, _Origin(weights=frozenset({key})))

    def active_params(self) -> dict[int, float]:
        """Trainable elements of each matmul parameter, times the share of positions it met."""
        return {
            key: self.parameters[key].numel() * min(1.0, share)
            for key, share in self.shares.items()
            if self.parameters[key].requires_grad
        }

    def vocabulary_projections(self, loss: torch.Tensor) -> set[int]:
        """Parameters that are looked up, and weights that make an output as wide as such a table.

        ``loss``: the loss of the forward pass.
        """
        entries = {self.parameters[key].shape[0] for key in self.tables}
        last = self._origin(loss).product
        return self.tables | {key for key in last if self.features[key] in entries}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operator = func._overloadpacket
        formula: Any = FORMULAS.get(operator) or flop_registry.get(operator)
        if formula is None:
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        inputs = tensors_in([*args, *kwargs.values()])
        out = self.kernels.run(func, args, kwargs, inputs)
        flops = formula(*args, **kwargs, out_val=out) if formula else None
        if self.in_forward:
            self._follow(func, operator, args, inputs, out, flops)
        if self.in_forward or not torch.is_grad_enabled():  # else an activation computed again
            self.flops += flops or 0
        return out

    # -- what follows looks at the forward pass alone

    def _follow(
        self,
        func: Any,
        operator: Any,
        args: tuple,
        inputs: list[torch.Tensor],
        out: Any,
        flops: float | None,
    ) -> None:
        storages = {_storage_key(t) for t in inputs}
        mutates = func._schema.is_mutable
        made = [t for t in tensors_in(out) if mutates or _storage_key(t) not in storages]
        if not made:  # a view
            return
        if flops is not None:
            origin = self._of_product(operator, args, out, flops)
        elif not inputs or operator in CONSTANTS:
            origin = CONSTANT
        elif self._is_lookup(operator, inputs):
            origin = self._of_lookup(inputs)
        else:
            origin = self._of_others(func, operator, inputs)
        for tensor in made:
            is_choice = not (tensor.is_floating_point() or tensor.is_complex())
            if is_choice and origin.positions:
                self._set(tensor, replace(origin, chosen=origin.positions))
            else:
                self._set(tensor, origin)

    def _of_product(self, operator: Any, args: tuple, out: Any, flops: float) -> _Origin:
        operands = args[1:3] if operator in WITH_ADDEND else args[:2]
        origins = [self._origin(operand) for operand in operands]
        chosen = max(origin.chosen for origin in origins)
        positions = 0.0
        product: set[int] = set()
        for origin in origins:
            weights = self._matrices(origin.weights)
            if not weights:
                continue
            positions = flops / 2 / sum(self.parameters[key].numel() for key in weights)
            for key in weights:
                self.features[key] = out[0].shape[-1] if isinstance(out, tuple) else out.shape[-1]
                self.shares[key] += positions / chosen if chosen else 1.0
            product |= weights
        if not product:
            return _Origin(positions=max(o.positions for o in origins), chosen=chosen)
        return _Origin(_all_weights(origins), frozenset(product), positions, chosen)

    def _matrices(self, weights: frozenset[int] | None) -> set[int]:
        """Of a weight's parameters, those that are not mere gains and biases of another."""
        if not weights or len(weights) == 1:
            return set(weights or ())
        return {key for key in weights if sum(n > 1 for n in self.parameters[key].shape) > 1}

    def _is_lookup(self, operator: Any, inputs: list[torch.Tensor]) -> bool:
        """Whether data (or an embedding's own index) picks from parameters."""
        if operator not in GATHERS or not self._origin(inputs[0]).weights:
            return False
        by_data = any(self._origin(index).weights is None for index in inputs[1:])
        return by_data or operator is aten.embedding

    def _of_lookup(self, inputs: list[torch.Tensor]) -> _Origin:
        """Rows of a table are data; matrices picked from a stack stay weights."""
        table, *indices = inputs
        weights = self._origin(table).weights
        if table.dim() < 3:
            self.tables |= weights or frozenset()
            return DATA
        return _Origin(weights, chosen=max(self._origin(index).chosen for index in indices))

    def _of_others(self, func: Any, operator: Any, inputs: list[torch.Tensor]) -> _Origin:
        origins = [self._origin(t) for t in inputs]
        data = [o for o in origins if o.weights is None]
        weights = _all_weights(origins)
        if operator is aten._embedding_bag:
            self.tables |= origins[0].weights or frozenset()
        elif data and operator not in FREE and torch.Tag.pointwise not in func.tags:
            pairs = zip(inputs, origins, strict=True)
            if any(t.dim() > 1 and self._matrices(o.weights) for t, o in pairs):
                self.unknown.add(str(func))
        into_constant = operator in SCATTERS and origins[0].weights is not None
        if operator in REDUCTIONS:
            chosen = 0.0
        elif not data or operator in GATHERS or into_constant:
            chosen = max(o.chosen for o in origins)
        else:
            chosen = min(o.chosen for o in data)
        product = frozenset().union(*(o.product for o in origins))
        return _Origin(weights, product, max(o.positions for o in origins), chosen)

    def _origin(self, tensor: torch.Tensor) -> _Origin:
        key = _storage_key(tensor)
        return self.origins[key][1] if key in self.origins else DATA

    def _set(self, tensor: torch.Tensor, origin: _Origin) -> None:
        if (key := _storage_key(tensor)) is not None:
            self.origins[key] = (StorageWeakRef(tensor.untyped_storage()), origin)


def _all_weights(origins: list[_Origin]) -> frozenset[int] | None:
    """The weights behind all of ``origins``; None where one of them is data."""
    weights = [origin.weights for origin in origins if origin.weights is not None]
    return frozenset().union(*weights) if len(weights) == len(origins) else None


def _storage_key(tensor: torch.Tensor) -> int | None:
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else None
