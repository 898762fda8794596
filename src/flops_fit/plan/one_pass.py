"""One forward and backward pass of a model, counted operator by operator, on whatever device."""

import contextlib
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from flops_fit.data import describe
from flops_fit.errors import FlopsFitError
from flops_fit.model_factory import call_model, num_params
from flops_fit.plan.flop_tracker import FlopTracker
from flops_fit.plugins.randomness import random_state
from flops_fit.plugins.resolve import one_line
from flops_fit.sweep import ModelCount

READY_BATCH = (
    "; it takes one item as it is, so the dataset seems to give ready batches; allowed: single "
    "(inputs, targets) items, which are put into batches of the sweep's size"
)
FAR = 2.5  # factor between FLOPs that a model states and those that are counted
APART = 100  # factor between the N that a model states and its parameters, beyond active experts
ITEMS = 2  # one item alone breaks batch norm and .squeeze(), and lets an unreduced loss pass


class Pass:
    """Forward and backward on a small batch, under the eyes of a `FlopTracker`.

    The batch holds ``items`` times the ``example``, a pair (inputs, targets), put together by
    ``collate_fn``; its loss is ``loss_fn(outputs, targets)``, and each item brings
    ``tokens_per_item`` target elements. Raises `FlopsFitError` where the items make no batch.
    """

    def __init__(
        self,
        example: tuple[Any, Any],
        loss_fn: Callable[..., Any],
        tokens_per_item: float,
        collate_fn: Callable[[list], Any],
        items: int = ITEMS,
    ):
        if not tokens_per_item > 0:
            raise FlopsFitError(f"tokens per item: {tokens_per_item!r}; must be positive")
        self.loss_fn, self.example = loss_fn, example
        self.tokens = items * tokens_per_item
        try:
            self.batch = collate_fn([example] * items)
        except Exception as error:
            raise FlopsFitError(f"dataset: items make no batch: {one_line(error)}") from error

    def count(self, build: Callable[[], nn.Module], device: str, label: str = "") -> ModelCount:
        """Count the model that ``build()`` makes, in one pass on ``device``.

        ``label`` names its size in errors. Raises `FlopsFitError` where model, data and loss do not fit.
        """
        with reproducible():
            model = build_on(build, device)
            where = f"{type(model).__name__}({label})" if label else type(model).__name__
            tracker, kept = FlopTracker(model), _KeptForBackward()
            with torch.device(device), _countable_kernels(), tracker:
                with kept:
                    loss, broadcast = self._loss(model, device, where)
                tracker.in_forward = False
                try:
                    loss.backward()
                except Exception as error:
                    raise FlopsFitError(
                        f"model: {where} fails in the backward pass: {one_line(error)}"
                    ) from error
        stated = own_flops_per_token(model)
        flops = tracker.flops / self.tokens if stated is None else stated
        if not flops > 0:
            raise FlopsFitError(f"model: {where} does no matrix product that could be counted")
        head = tracker.vocabulary_projections(loss)
        matmul = tracker.active_params()
        return ModelCount(
            num_params=num_params(model),
            params=round(sum(matmul.values())),
            params_nonembedding=round(sum(n for p, n in matmul.items() if p not in head)),
            params_total=trainable_params(model),
            flops_per_token=flops,
            method=device if stated is None else "model",
            warnings=(
                *broadcast,
                *_far_from_counted(stated, tracker.flops / self.tokens, where),
                *_doubtful_params(model, where),
                *(
                    f"{where}: operator {name} uses parameters but has no FLOP formula: neither its "
                    "FLOPs nor they are counted; torch.utils.flop_counter.register_flop_formula helps"
                    for name in sorted(tracker.unknown)
                ),
            ),
            activation_bytes=kept.bytes_beside(model) / self.tokens,
        )

    def _takes_an_item(self, model: nn.Module, device: str) -> bool:
        """Whether the model takes one item as it is: the items then are batches already."""
        try:
            call_model(model, moved(self.example[0], device))
        except Exception:
            return False
        return True

    def _loss(
        self, model: nn.Module, device: str, where: str
    ) -> tuple[torch.Tensor, tuple[str, ...]]:
        inputs, targets = moved(self.batch, device)
        try:
            outputs = call_model(model, inputs)
        except Exception as error:
            hint = READY_BATCH if self._takes_an_item(model, device) else ""
            raise FlopsFitError(
                f"model: {where} fails on the data: {one_line(error)}{hint}"
            ) from error
        try:
            loss = self.loss_fn(outputs, targets)
        except Exception as error:
            loss = sum_of_outputs(outputs) if device == "meta" and needs_values(error) else None
            if loss is None:
                raise FlopsFitError(f"loss: fails on {where}: {one_line(error)}") from error
        if not isinstance(loss, torch.Tensor) or loss.shape != ():
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else describe(loss)
            raise FlopsFitError(
                f"loss: {got}; allowed: a scalar, the mean over the target elements"
            )
        if not torch.is_grad_enabled():
            raise FlopsFitError(
                "model: gradients are switched off, so nothing could be trained; allowed: no "
                "torch.set_grad_enabled(False) in a module, and no call under torch.no_grad()"
            )
        if not loss.requires_grad:
            raise FlopsFitError(f"loss: depends on no trainable parameter of {where}")
        return loss, _broadcast(outputs, targets)


def draws_when_evaluated(
    build: Callable[[], nn.Module],
    batch: tuple[Any, Any],
    loss_fn: Callable,
    devices: Iterable[str],
) -> bool:
    """Whether a model or its loss draws random numbers in evaluation mode, as diffusion does.

    ``build()`` makes the model, which is run with ``loss_fn`` on ``batch`` (inputs and targets) on the
    first of ``devices`` (meta, cpu) where it runs. Returns False where it runs on none.
    """
    for device in devices:
        draws = _Draws()
        with contextlib.suppress(Exception), reproducible(), _countable_kernels():
            model = build_on(build, device).eval()
            inputs, targets = moved(batch, device)
            before = random_state()
            with torch.no_grad(), torch.device(device), draws:
                loss_fn(call_model(model, inputs), targets)
            return draws.seen or random_state() != before
    return False


class _Draws(TorchDispatchMode):
    """Notes whether an operator draws random numbers; attention only may, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        random = torch.Tag.nondeterministic_seeded in func.tags
        self.seen |= random and "attention" not in func.name()
        return func(*args, **(kwargs or {}))


def _broadcast(outputs: Any, targets: Any) -> tuple[str, ...]:
    """A warning where numbers to be predicted meet outputs of another, stretchable shape."""
    tensors = isinstance(outputs, torch.Tensor) and isinstance(targets, torch.Tensor)
    if not tensors or not targets.is_floating_point() or outputs.shape == targets.shape:
        return ()
    try:
        torch.broadcast_shapes(outputs.shape, targets.shape)
    except RuntimeError:
        return ()
    shapes = f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}"
    return (f"loss: {shapes} differ, and torch would stretch one to the other: is that meant?",)


class _KeptForBackward(saved_tensors_hooks):
    """Notes the storages that autograd saves; views of one tensor count once."""

    def __init__(self) -> None:
        self._storages: dict[int, torch.UntypedStorage] = {}
        super().__init__(self._note, lambda tensor: tensor)

    def _note(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        self._storages[storage._cdata] = storage
        return tensor

    def bytes_beside(self, model: nn.Module) -> int:
        """Their size without the model's weights."""
        weights = {p.untyped_storage()._cdata for p in model.parameters()}
        return sum(s.nbytes() for key, s in self._storages.items() if key not in weights)


def build_on(build: Callable[[], nn.Module], device: str) -> nn.Module:
    """The model that ``build()`` makes on ``device``; raises `FlopsFitError` where it fails."""
    try:
        with torch.device(device):
            return build().to(device)  # also buffers that were made from NumPy arrays
    except FlopsFitError:
        raise
    except Exception as error:
        raise FlopsFitError(f"model: cannot be built: {one_line(error)}") from error


def trainable_params(model: nn.Module) -> int:
    """The number of trainable parameters of ``model``, shared ones once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def own_flops_per_token(model: nn.Module) -> float | None:
    """What the ``flops_per_token()`` of ``model`` returns, None without one.

    Raises `FlopsFitError` where that method fails or returns no positive number.
    """
    method = getattr(model, "flops_per_token", None)
    if not callable(method):
        return None
    try:
        value = method()
    except Exception as error:
        raise FlopsFitError(
            f"model: {type(model).__name__}.flops_per_token() fails: {one_line(error)}"
        ) from error
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise FlopsFitError(
            f"model: {type(model).__name__}.flops_per_token() returned {value!r}, "
            "not a positive number"
        )
    return float(value)


def _far_from_counted(stated: float | None, counted: float, where: str) -> tuple[str, ...]:
    """A warning where a model states other FLOPs per token than were counted, by much."""
    if stated is None or not counted or 1 / FAR < stated / counted < FAR:
        return ()
    return (
        f"{where}: its flops_per_token() is {stated:.4g}, which is believed, while {counted:.4g} were "
        "counted: right for windowed or sparse attention; else, is it forward and backward, in FLOPs, "
        "for one target element?",
    )


def _doubtful_params(model: nn.Module, where: str) -> tuple[str, ...]:
    """Warnings where N is not the number of real parameters, by much."""
    sentences = []
    held = sum(p.numel() for p in model.parameters())
    embedded = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding))
    stated = num_params(model)
    if not (held - embedded) / APART < stated < held * APART:
        sentences.append(
            f"{where}: its num_params() is {stated}, while it holds {held} parameters; N of 6 N D is "
            "what it returns, so is that a number of single parameters?"
        )
    if any(p.is_complex() for p in model.parameters()):
        sentences.append(
            f"{where}: has complex parameters, of which each counts as one parameter, and a product of "
            "them as if it were real, which is a quarter of its FLOPs; give the model num_params() and "
            "flops_per_token() to have them counted otherwise"
        )
    return tuple(sentences)


@contextlib.contextmanager
def reproducible() -> Iterator[None]:
    """Leaves the caller's random state alone, and Python's warnings unprinted."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        yield


@contextlib.contextmanager
def _countable_kernels() -> Iterator[None]:
    """Fused kernels hide their products from the counter: zero FLOPs for a CPU LSTM otherwise."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        if "torch._dynamo" in sys.modules:  # the model, or something before it, compiles
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def moved(batch: Any, device: str | torch.device) -> Any:
    """``batch`` with all that can be moved to ``device``; tensors on meta get made-up values there."""

    def move(tensor: Any) -> Any:
        if not isinstance(tensor, torch.Tensor):  # a packed sequence, or a type of the user's
            return tensor.to(device) if hasattr(tensor, "to") else tensor
        if device == "meta" or not tensor.is_meta:
            return tensor.to(device)
        if tensor.is_floating_point() or tensor.is_complex():
            return torch.randn(tensor.shape, dtype=tensor.dtype, device=device)
        return torch.randint(0, 2, tensor.shape, device=device).to(tensor.dtype)  # any vocabulary

    return tree_map(move, batch, is_leaf=lambda value: isinstance(value, PackedSequence))


def needs_values(error: Exception) -> bool:
    """Whether ``error`` seems to say that a tensor on the meta device has no values."""
    return isinstance(error, NotImplementedError) or "meta" in str(error).lower()


def sum_of_outputs(outputs: Any) -> torch.Tensor | None:
    """A scalar that depends on all trained ``outputs`` of a model; None where there are none."""
    parts = [
        leaf.sum()
        for leaf in tree_leaves(outputs)
        if isinstance(leaf, torch.Tensor) and leaf.requires_grad
    ]
    return sum(parts[1:], parts[0]) if parts else None
