"""The memory that a step of training takes beside weights, gradients and the optimiser's states.

A model runs on the meta device, where tensors have sizes and lifetimes but no values, and every
allocation is counted until it is freed. What accelerate does is done here, too: weights, gradients and
states are fp32; in bf16 and fp16 the inputs of products are cast to 16 bits, as autocast does on a GPU
or a CPU, and the outputs of the model back to fp32. Attention is that of a fused kernel.
"""

import contextlib
import math
import re
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import convert_to_fp32
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from flops_fit.model_factory import call_model, create_model, enable_activation_checkpointing
from flops_fit.plan.costs import Costs
from flops_fit.plan.devices import DTYPES
from flops_fit.plan.items import positions_of
from flops_fit.plan.meta_kernels import MetaKernels, tensors_in
from flops_fit.plan.one_pass import build_on, moved, needs_values, reproducible, sum_of_outputs
from flops_fit.sweep import Experiment

ITEMS = 16  # of the batch that is counted: enough for activations to outweigh one weight's gradient

# What autocast computes in 16 bits, and on a GPU in fp32 (ATen/autocast_mode.h), by the names of
# Python's functions. On a CPU, no operator of a model that matters for memory is held in fp32.
IN_16_BITS = re.compile(
    r"linear|conv(_transpose)?[123]d|conv_tbc|matmul|__r?matmul__|b?mm|mv|add(mm|mv|bmm)|baddbmm|einsum"
    r"|multi_dot|chain_matmul|scaled_dot_product_attention|multi_head_attention_forward|prelu"
    r"|(lstm|gru|rnn_tanh|rnn_relu)(_cell)?"
)
IN_FP32_ON_GPUS = re.compile(
    r"a(cos|sin)|(cos|sin)h|tan|erfinv|exp(m1)?|log(2|10|1p|sumexp|_softmax)?|reciprocal|rsqrt"
    r"|pow|__pow__|soft(max|plus)|((layer|rms|group)_)?norm|cum(sum|prod)|prod|cosine_similarity"
    r"|[cp]?dist|renorm|(nll|l1|smooth_l1|huber|mse)_loss|kl_div|binary_cross_entropy_with_logits"
    r"|interpolate"
)


@dataclass(frozen=True)
class Manner:
    """How runs are trained, as far as it decides their memory.

    ``precision`` is accelerate's, ``gpu`` says whether they train on a GPU, and ``checkpointing``
    whether activations are recomputed.
    """

    precision: str = "no"
    gpu: bool = False
    checkpointing: bool = False


@dataclass(frozen=True)
class StepBytes:
    """The most memory that is taken at one time, beside weights, gradients and optimiser's states.

    In training, ``per_item`` bytes for each item of a batch and ``fixed`` bytes for any batch, which are
    copies of weights in 16 bits; ``evaluated_item`` and ``evaluated_fixed`` in evaluation.
    """

    per_item: float
    fixed: int
    evaluated_item: float
    evaluated_fixed: int


class LiveBytes(TorchDispatchMode):
    """The bytes of all tensors, of any shape, that operators have made and that are not freed yet.

    ``kernels`` compute them.

    ``now`` are those at this time, and ``most`` the largest sum so far, of which ``most_fixed`` bytes
    were marked by `fix`. Tensors that `forget` is given do not count.
    """

    def __init__(self, kernels: MetaKernels):
        super().__init__()
        self.kernels = kernels
        self.now = self.most = self.most_fixed = 0
        self._held: dict[int, int] = {}  # bytes by storage
        self._fixed: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        inputs = tensors_in([*args, *kwargs.values()])
        out = self.kernels.run(func, args, kwargs, inputs)
        before = {_storage(t)._cdata for t in inputs}
        self.hold(t for t in tensors_in(out) if _storage(t)._cdata not in before)
        return out

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count ``tensors`` of any shape from now on until they are freed."""
        for storage in map(_storage, tensors):
            if storage._cdata not in self._held:
                self._held[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata)
        if self.now > self.most:
            self.most, self.most_fixed = self.now, sum(self._held[key] for key in self._fixed)

    def fix(self, tensor: torch.Tensor) -> None:
        """Mark ``tensor``, of any shape, as one that does not depend on the batch."""
        self._fixed.add(_storage(tensor)._cdata)

    def forget(self, tensor: torch.Tensor) -> None:
        """Do not count ``tensor``, of any shape, any more."""
        self._free(_storage(tensor)._cdata)

    def _free(self, key: int) -> None:
        self.now -= self._held.pop(key, 0)
        self._fixed.discard(key)


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


class _FusedAttention(torch.autograd.Function):
    """The tensors of a fused attention kernel: no scores; the backward pass sums in fp32."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        *batch, heads, rows, _ = q.shape if q.ndim > 3 else (1, *q.shape)
        out = q.new_empty((*batch, rows, heads, v.shape[-1])).transpose(-3, -2)  # as the kernels do
        out = out.reshape((*q.shape[:-1], v.shape[-1]))
        log_sums = q.new_empty(q.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, log_sums)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        q, k, v, _, log_sums = ctx.saved_tensors
        sums = torch.empty_like(q, dtype=torch.float32), torch.empty_like(log_sums)
        made = tuple(map(torch.empty_like, (q, k, v)))
        del sums
        return made


class _AsTrained(TorchFunctionMode):
    """What autocast does to the functions of a model under a `Manner`, and fused attention.

    ``live`` counts the casts. Each weight is cast once while ``cached`` is true, as in a forward pass.
    """

    def __init__(self, manner: Manner, live: LiveBytes, cached: bool = True):
        super().__init__()
        self.dtype = DTYPES.get(manner.precision)
        self.gpu = manner.gpu
        self.live, self.cached = live, cached
        self._casts: dict[int, torch.Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        cast = self._cast_of(getattr(func, "__name__", ""))
        if cast is not None:
            args, kwargs = tree_map_only(torch.Tensor, cast, (args, kwargs))
        if func is F.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
            return _FusedAttention.apply(given["query"], given["key"], given["value"])
        return func(*args, **kwargs)

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._casts.clear()

    def _cast_of(self, name: str) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """What autocast does to the tensors that the function ``name`` is given."""
        if self.dtype is None:
            return None
        if IN_16_BITS.fullmatch(name):
            return self._to_16_bits
        return _to_fp32 if self.gpu and IN_FP32_ON_GPUS.fullmatch(name) else None

    def _to_16_bits(self, tensor: torch.Tensor) -> torch.Tensor:
        assert self.dtype is not None
        if not tensor.is_floating_point() or tensor.dtype in (self.dtype, torch.float64):
            return tensor
        weight = tensor.is_leaf and tensor.requires_grad and not tensor._is_view()
        if not weight:
            return tensor.to(self.dtype)
        cast = self._casts.get(id(tensor))
        if cast is None:
            cast = tensor.to(self.dtype)
            self.live.fix(cast)
            if self.cached:
                self._casts[id(tensor)] = cast
        return cast


def _to_fp32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def step_bytes(
    build: Callable[[], nn.Module],
    batch: tuple[Any, Any],
    items: int,
    loss_fn: Callable[..., Any],
    manner: Manner,
) -> StepBytes:
    """What a step and an evaluation of the model that ``build()`` makes take on ``batch``.

    The ``batch``, inputs and targets, has ``items`` items; ``loss_fn`` and ``manner`` say how it is
    trained. Whatever a model raises that does not run on the meta device is raised.
    """
    with reproducible(), torch.device("meta"):
        model = build_on(build, "meta").train()
        if manner.checkpointing:
            enable_activation_checkpointing(model)
        kernels = MetaKernels()
        live = LiveBytes(kernels)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda p: live.forget(p.grad))
        batch = moved(batch, "meta")
        with live:
            live.hold(leaf for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor))
            loss = _loss(model, batch, loss_fn, manner, live)
            with _AsTrained(manner, live, cached=False):  # for what the backward pass recomputes
                _backward(loss)
        model.eval()
        evaluated = LiveBytes(kernels)
        with torch.no_grad(), evaluated:
            evaluated.hold(leaf for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor))
            _loss(model, batch, loss_fn, manner, evaluated)
    return StepBytes(
        per_item=(live.most - live.most_fixed) / items,
        fixed=live.most_fixed,
        evaluated_item=(evaluated.most - evaluated.most_fixed) / items,
        evaluated_fixed=evaluated.most_fixed,
    )


def _backward(loss: torch.Tensor) -> None:
    """``loss.backward()``, which would leave the function mode before anything is recomputed."""
    torch.autograd.Variable._execution_engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), True, True
    )


def _loss(
    model: nn.Module,
    batch: tuple[Any, Any],
    loss_fn: Callable[..., Any],
    manner: Manner,
    live: LiveBytes,
) -> Any:
    """The loss as the trainer computes it: nobody but the loss holds the outputs."""
    inputs, targets = batch

    def outputs() -> Any:
        with _AsTrained(manner, live):
            made = call_model(model, inputs)
        return convert_to_fp32(made) if manner.precision != "no" else made

    try:
        return loss_fn(outputs(), targets)
    except Exception as error:
        loss = sum_of_outputs(outputs()) if needs_values(error) else None
        if loss is None:
            raise
        return loss


def with_memory(
    experiments: list[Experiment], costs: Costs, manner: Manner, evaluation: dict[str, int]
) -> list[Experiment]:
    """The ``experiments`` with the memory that their models take when they are trained in ``manner``.

    ``costs`` has the model and the items; ``evaluation`` is that section of the config. A size that
    does not run on the meta device keeps what was counted with its FLOPs.
    """
    example = moved(costs.example, "meta")
    tokens, longer = costs.items.tokens, costs.items.positions / positions_of(costs.example[0])
    evaluated_items = min(evaluation["batch_items"], math.ceil(evaluation["tokens"] / tokens))
    known: dict[tuple[Any, int], StepBytes | None] = {}

    def taken(size: Any, items: int) -> StepBytes | None:
        if (size, items) not in known:
            known[size, items] = None
            build = partial(create_model, costs.model_cls, costs.size_param, size, costs.kwargs)
            with contextlib.suppress(Exception):  # an estimate does without
                batch = costs.collate([example] * items)
                known[size, items] = step_bytes(build, batch, items, costs.loss_fn, manner)
        return known[size, items]

    def measured(experiment: Experiment) -> Experiment:
        items = experiment.batches.last if costs.coupled else ITEMS
        bytes_of = taken(experiment.size_param_value, items)
        if bytes_of is None:
            return experiment
        count = replace(
            experiment.count,
            activation_bytes=bytes_of.per_item * longer / tokens,
            fixed_bytes=bytes_of.fixed,
            evaluation_bytes=bytes_of.evaluated_item * longer * evaluated_items
            + bytes_of.evaluated_fixed,
        )
        return replace(experiment, count=count)

    return [measured(experiment) for experiment in experiments]
