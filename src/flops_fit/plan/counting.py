"""Parameters and FLOPs per token of a model, counted from its own forward and backward pass.

The pass runs on the meta device, where a 100B-parameter model costs no memory, and every operator
is met on its way: its FLOPs follow the formulas of `torch.utils.flop_counter` (a multiplication
and an addition are two). The conventions:

- FLOPs are those of forward and backward as autograd runs them, of matrix products and
  convolutions alone. Gradients that nobody asks for (frozen weights, plain inputs) are not
  counted, nor are activations that the backward pass computes again (`torch.utils.checkpoint`).
- Attention counts as the full square, causal or not: 12 T d per layer and token.
- A parameter is a matmul parameter if it enters a product, itself or through a tensor computed
  from parameters alone (a view, a cast, a normed weight, a low-rank sum). A look-up is none.
- Where the model itself chooses which positions meet a weight (experts with top-k routing), the
  weight counts by the share of positions that met it.

A model that cannot run on the meta device (its shapes depend on values, or its constructor reads
one) is run on the CPU, at small sizes, and extrapolated to the large: see `count_sizes`.
"""

import contextlib
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.data import default_collate

from flops_fit.errors import FlopsFitError
from flops_fit.model_factory import call_model, create_model, num_params
from flops_fit.plan.flop_tracker import FlopTracker
from flops_fit.plugins.resolve import one_line

ITEMS = 2  # one item alone breaks batch norm and .squeeze(), and lets an unreduced loss pass
CPU_PARAMS = 20_000_000  # models up to here are run for real where they cannot run on meta
EXTRAPOLATED_FROM = 5  # sizes: a cubic through the upper four, another through the lower four
TRIES = 10  # at most, the largest first, to find such sizes
TOLERANCE = 0.01  # by which the two may differ at the size wanted
USUAL_RATIO = (0.7, 1.5)  # of FLOPs per token to 6 N; beyond, 6 N D does not stand for the cost


@dataclass(frozen=True)
class ModelCount:
    """What one size of a model holds and costs.

    Attributes:
        num_params: N as the model's ``num_params()`` says, else its trainable parameters.
        params: trainable matmul parameters that a token meets: output head included, embedding
            look-ups not, experts by their share of the tokens.
        params_nonembedding: ``params`` without the projections onto an embedding's vocabulary.
        params_total: all trainable parameters, shared ones once.
        flops_per_token: FLOPs of forward and backward per target element.
        method: "meta" (run on the meta device), "cpu" (run on the CPU, or extrapolated from
            sizes that were) or "model" (the model's own ``flops_per_token()``).
        warnings: sentences to read before trusting the figures.
        activation_bytes: what autograd keeps for the backward pass per target element, in the
            model's own number format and with attention's full square (fused kernels keep less);
            0 where the model could not be run. For the memory estimate only.
        flops_per_position: FLOPs per element of the inputs, where targets are ignored or items
            differ in length, so that the positions of a run tell what it spent; else None.
    """

    num_params: int
    params: int
    params_nonembedding: int
    params_total: int
    flops_per_token: float
    method: str
    warnings: tuple[str, ...] = ()
    activation_bytes: float = 0.0
    flops_per_position: float | None = None


def count_model(
    build: Callable[[], nn.Module],
    example: tuple[Any, Any],
    loss_fn: Callable[[Any, Any], torch.Tensor],
    tokens_per_item: float,
    collate_fn: Callable[[list], Any] = default_collate,
) -> ModelCount:
    """Count the one model that ``build()`` makes; the other arguments are `count_sizes`'s.

    Where it cannot run on the meta device it is built and run on the CPU, whatever its size.
    """
    pass_ = _Pass(example, loss_fn, tokens_per_item, collate_fn)
    try:
        count = pass_.count(build, "meta")
    except FlopsFitError:
        try:
            count = pass_.count(build, "cpu")
        except FlopsFitError as error:
            count = _count_by_modules(build, error)
    return count


def count_sizes(
    model_cls: Callable[..., nn.Module],
    size_param: str,
    sizes: Iterable[int | float],
    model_kwargs: Mapping[str, Any] | None,
    example: tuple[Any, Any],
    loss_fn: Callable[[Any, Any], torch.Tensor],
    tokens_per_item: float,
    collate_fn: Callable[[list], Any] = default_collate,
    items: int = ITEMS,
) -> dict[int | float, ModelCount]:
    """Count a model at every size, in the order given.

    ``model_cls(**{size_param: size}, **model_kwargs)`` builds it and ``loss_fn(outputs, targets)``
    ends its forward pass. ``example`` is one item of the dataset, ``(inputs, targets)`` without a
    batch dimension: tensors, or tuples and mappings of them; on the meta device only shapes and
    types are used, so it may lie there. ``collate_fn`` makes a batch of a list of items.
    ``tokens_per_item`` is the number of target elements that an item brings, and ``items`` the
    batch that is counted, whose FLOPs are divided by its tokens.

    If the smallest size runs on the meta device, every size is counted there. If not, sizes up
    to 20M parameters are run on the CPU, and larger ones extrapolated: each figure is a cubic in
    the size value through the four largest of five small sizes (those wanted, then others as
    round); a cubic through the four smallest must agree within 1% at the size wanted.

    A model's own ``flops_per_token()`` (forward and backward, per target element) is believed;
    a model that has one may even fail to run here (kernels for GPUs only): then its parameters
    are told apart by the modules that hold them, and a warning says so.

    Raises `FlopsFitError` when a size cannot be built or run, when the loss is no scalar that
    depends on a trainable parameter, and when the extrapolation does not hold.
    """
    sizes = list(sizes)
    pass_ = _Pass(example, loss_fn, tokens_per_item, collate_fn, items)

    def build(size: int | float) -> nn.Module:
        return create_model(model_cls, size_param, size, model_kwargs)

    def count(size: int | float, device: str) -> ModelCount:
        return pass_.count(lambda: build(size), device, f"{size_param}={size}")

    try:
        counts = {min(sizes): count(min(sizes), "meta")}
    except FlopsFitError as error:
        try:
            counts = _count_on_cpu(count, build, size_param, sizes, error)
        except FlopsFitError as reason:
            counts = {s: _count_by_modules(lambda s=s: build(s), reason) for s in sizes}
    else:
        counts |= {size: count(size, "meta") for size in sizes if size not in counts}
    return {size: counts[size] for size in sizes}


def draws_when_evaluated(
    build: Callable[[], nn.Module],
    batch: tuple[Any, Any],
    loss_fn: Callable,
    devices: Iterable[str],
) -> bool:
    """Whether a model or its loss draws random numbers in evaluation mode, as diffusion does.

    Run on the first of ``devices`` (meta, cpu) where it runs; False where none does.
    """
    for device in devices:
        draws = _Draws()
        with contextlib.suppress(Exception), _reproducible(), _countable_kernels():
            model = _build(build, device).eval()
            inputs, targets = tree_map_only(torch.Tensor, mover(device), batch)
            with torch.no_grad(), torch.device(device), draws:
                loss_fn(call_model(model, inputs), targets)
            return draws.seen
    return False


class _Draws(TorchDispatchMode):
    """Notes whether an operator draws random numbers; attention only may, with dropout."""

    def __init__(self):
        super().__init__()
        self.seen = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        random = torch.Tag.nondeterministic_seeded in func.tags
        self.seen |= random and "attention" not in func.name()
        return func(*args, **(kwargs or {}))


# ------------------------------------------------------------------------------- one pass


class _Pass:
    """Forward and backward on a small batch, under the eyes of a `FlopTracker`."""

    def __init__(self, example, loss_fn, tokens_per_item, collate_fn, items=ITEMS):
        if not tokens_per_item > 0:
            raise FlopsFitError(f"tokens per item: {tokens_per_item!r}; must be positive")
        self.loss_fn = loss_fn
        self.tokens = items * tokens_per_item
        try:
            self.batch = collate_fn([example] * items)
        except Exception as error:
            raise FlopsFitError(f"dataset: items make no batch: {one_line(error)}") from error

    def count(self, build: Callable[[], nn.Module], device: str, label: str = "") -> ModelCount:
        with _reproducible():
            model = _build(build, device)
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
        own = own_flops_per_token(model)
        flops = tracker.flops / self.tokens if own is None else own
        if not flops > 0:
            raise FlopsFitError(f"model: {where} does no matrix product that could be counted")
        head = tracker.vocabulary_projections(loss)
        matmul = tracker.active_params()
        return ModelCount(
            num_params=num_params(model),
            params=round(sum(matmul.values())),
            params_nonembedding=round(sum(n for p, n in matmul.items() if p not in head)),
            params_total=_trainable(model),
            flops_per_token=flops,
            method=device if own is None else "model",
            warnings=(
                *broadcast,
                *(
                    f"{where}: operator {name} uses parameters but has no FLOP formula: neither its "
                    "FLOPs nor they are counted; torch.utils.flop_counter.register_flop_formula helps"
                    for name in sorted(tracker.unknown)
                ),
            ),
            activation_bytes=kept.bytes_beside(model) / self.tokens,
        )

    def _loss(
        self, model: nn.Module, device: str, where: str
    ) -> tuple[torch.Tensor, tuple[str, ...]]:
        inputs, targets = tree_map_only(torch.Tensor, mover(device), self.batch)
        try:
            outputs = call_model(model, inputs)
        except Exception as error:
            raise FlopsFitError(f"model: {where} fails on the data: {one_line(error)}") from error
        try:
            loss = self.loss_fn(outputs, targets)
        except Exception as error:
            loss = _sum_of_outputs(outputs) if device == "meta" and _needs_values(error) else None
            if loss is None:
                raise FlopsFitError(f"loss: fails on {where}: {one_line(error)}") from error
        if not isinstance(loss, torch.Tensor) or loss.shape != ():
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else repr(loss)
            raise FlopsFitError(
                f"loss: {got} where a scalar is wanted, the mean over the target elements"
            )
        if not loss.requires_grad:
            raise FlopsFitError(f"loss: depends on no trainable parameter of {where}")
        return loss, _broadcast(outputs, targets)


def _broadcast(outputs, targets) -> tuple[str, ...]:
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

    def __init__(self):
        self._storages: dict[int, torch.UntypedStorage] = {}
        super().__init__(self._note, lambda tensor: tensor)

    def _note(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        self._storages[storage._cdata] = storage
        return tensor

    def bytes_beside(self, model: nn.Module) -> int:
        """Their size without the model's own weights."""
        own = {p.untyped_storage()._cdata for p in model.parameters()}
        return sum(s.nbytes() for key, s in self._storages.items() if key not in own)


def _build(build: Callable[[], nn.Module], device: str) -> nn.Module:
    try:
        with torch.device(device):
            return build().to(device)  # also buffers that were made from NumPy arrays
    except FlopsFitError:
        raise
    except Exception as error:
        raise FlopsFitError(f"model: cannot be built: {one_line(error)}") from error


def _trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def own_flops_per_token(model: nn.Module) -> float | None:
    """What the model's ``flops_per_token()`` says, where it has one; must be positive."""
    own = getattr(model, "flops_per_token", None)
    if not callable(own):
        return None
    try:
        value = own()
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


def ratio_warnings(counts: Mapping[Any, ModelCount], size_param: str) -> list[str]:
    """What to say of sizes whose compute 6 N D is far from, where budgets mean 6 N D."""
    ratios = {size: c.flops_per_token / (6 * c.num_params) for size, c in counts.items()}
    low, high = USUAL_RATIO
    reasons = (
        (
            [size for size, r in ratios.items() if r > high],
            "attention, weights used several times per token, or ignored targets add to it",
        ),
        (
            [size for size, r in ratios.items() if r < low],
            "parameters that a token does not meet (embeddings, experts) or do not train, or several "
            "target elements to a position",
        ),
    )
    return [
        f"{_range_text([f'{size_param}={size}' for size in far])}: FLOPs per token are "
        f"{_range_text([f'{ratios[size]:.3g}' for size in far])} x 6 N with N = "
        f"{_range_text([str(counts[size].num_params) for size in far])} ({reason}): 6 N D is not this "
        "model's compute, so let budgets mean counted FLOPs (convention: counted)"
        for far, reason in reasons
        if far
    ]


def _range_text(values: list[str]) -> str:
    """First and last of ``values`` in words, or the only one."""
    return " to ".join(dict.fromkeys([*values[:1], *values[-1:]]))


@contextlib.contextmanager
def _reproducible() -> Iterator[None]:
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


def mover(device: str | torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that brings a tensor to ``device``; one on meta gets made-up values there."""

    def move(tensor: torch.Tensor) -> torch.Tensor:
        if device == "meta" or not tensor.is_meta:
            return tensor.to(device)
        if tensor.is_floating_point() or tensor.is_complex():
            return torch.randn(tensor.shape, dtype=tensor.dtype, device=device)
        return torch.randint(0, 2, tensor.shape, device=device).to(tensor.dtype)  # any vocabulary

    return move


def _needs_values(error: Exception) -> bool:
    return isinstance(error, NotImplementedError) or "meta" in str(error).lower()


def _sum_of_outputs(outputs: Any) -> torch.Tensor | None:
    parts = [
        leaf.sum()
        for leaf in tree_leaves(outputs)
        if isinstance(leaf, torch.Tensor) and leaf.requires_grad
    ]
    return sum(parts[1:], parts[0]) if parts else None


# ---------------------------------------------------------------- where meta does not do


def _count_on_cpu(count, build, size_param, sizes, meta_error) -> dict:
    """Run small sizes on the CPU, extrapolate to the others; see `count_sizes`."""
    small = _small_sizes(build, sizes)
    counts = {size: count(size, "cpu") for size in sizes if size in small}
    large = [size for size in sizes if size not in counts]
    points, error = dict(counts), None
    for size in small[: -TRIES - 1 : -1] if large else []:
        if size not in points and len(points) < EXTRAPOLATED_FROM:
            try:
                points[size] = count(size, "cpu")
            except FlopsFitError as reason:
                error = reason
    if not points:
        raise error or meta_error
    if large and len(points) < EXTRAPOLATED_FROM:
        raise FlopsFitError(
            f"model: {size_param}={large[0]} does not run on the meta device ({meta_error}) and "
            f"is too large to run on the CPU; extrapolating takes {EXTRAPOLATED_FROM} sizes of at "
            f"most {CPU_PARAMS} parameters, only {sorted(points)} run: list more small sizes"
        )
    points = dict(sorted(points.items())[-EXTRAPOLATED_FROM:])
    return counts | {s: _extrapolate(points, s, build, size_param, meta_error) for s in large}


def _small_sizes(build, sizes) -> list:
    """Sizes that can be built and are small enough to run, ascending."""
    small, params = [], 0
    for size in _ladder(sizes):
        try:
            params = _total_params(build, size, "meta")
        except FlopsFitError:
            if small and params * (size / small[-1]) ** 3 > 4 * CPU_PARAMS:
                break  # building takes real memory, for parameters that grow as a cube at most
            try:
                params = _total_params(build, size, "cpu")
            except FlopsFitError:
                if size in sizes:
                    raise
                continue
        if params > CPU_PARAMS:
            break
        small.append(size)
    return small


def _ladder(sizes) -> list:
    """The sizes and, if they are integers, others as round as they are, ascending.

    Those are small multiples of divisors of the sizes' greatest common divisor: a width of 768
    may have to be a multiple of the number of heads, so 700 is not worth a try.
    """
    if not all(isinstance(size, int) for size in sizes):
        return sorted(sizes)
    unit = math.gcd(*sizes)
    small = [n for n in range(1, min(math.isqrt(unit), 1_000_000) + 1) if unit % n == 0]
    divisors = {*small, *(unit // n for n in small)}
    steps = [m << k for k in range(max(sizes).bit_length()) for m in (1, 3)]
    others = {n * step for n in divisors for step in steps}
    return sorted({*sizes, *(size for size in others if size < max(sizes))})


def _total_params(build, size, device: str) -> int:
    with _reproducible():
        return sum(p.numel() for p in _build(lambda: build(size), device).parameters())


def _extrapolate(points: dict, size, build, size_param: str, meta_error) -> ModelCount:
    sizes = sorted(points)
    largest = points[sizes[-1]]
    known = _known_without_running(build, size, smaller=sizes[-1])
    figures = {}
    for field in ("num_params", "params", "params_nonembedding", "params_total", "flops_per_token"):
        values = {s: Fraction(getattr(points[s], field)) for s in sizes}
        lower, upper = (_cubic(values, nodes, size) for nodes in (sizes[:-1], sizes[1:]))
        value = known.get(field, upper)
        if max(abs(lower - value), abs(upper - value)) > TOLERANCE * value:
            raise FlopsFitError(
                f"model: {field} at {size_param}={size} cannot be extrapolated from "
                f"{size_param} = {', '.join(map(str, sizes))}: cubics through the lower and the "
                f"upper four give {float(lower):.6g} and {float(upper):.6g}; write the model so "
                f"that it runs on the meta device, or list sizes of up to {CPU_PARAMS} parameters"
            )
        figures[field] = float(value) if field == "flops_per_token" else round(value)
    # Rises no faster than the FLOPs of a token: an estimate from above.
    growth = figures["flops_per_token"] / largest.flops_per_token
    figures["activation_bytes"] = largest.activation_bytes * growth
    text = (
        f"{size_param}={size}: what the constructor does not tell is extrapolated by a cubic from "
        f"{size_param} = {', '.join(map(str, sizes))}, since on the meta device: {meta_error}"
    )
    return replace(largest, **figures, warnings=(*largest.warnings, text))


def _known_without_running(build, size, smaller) -> dict[str, float]:
    """Figures that the model tells once it is built, if that works without memory at all."""
    with _reproducible():
        try:
            model = _build(lambda: build(size), "meta")
        except FlopsFitError:
            try:
                _build(lambda: build(smaller), "meta")
            except FlopsFitError:
                return {}
            raise  # it is this size that cannot be built
    known = {"num_params": num_params(model), "params_total": _trainable(model)}
    own = own_flops_per_token(model)
    return known if own is None else {**known, "flops_per_token": own}


def _cubic(values: dict, nodes: list, x) -> Fraction:
    """The polynomial through ``values`` at four nodes, exactly (Lagrange's form)."""
    return sum(
        values[i] * math.prod(Fraction(x - j) / Fraction(i - j) for j in nodes if j != i)
        for i in nodes
    )


# ------------------------------------------------------------------ where nothing runs at all


def _count_by_modules(build: Callable[[], nn.Module], error: FlopsFitError) -> ModelCount:
    """A model that runs nowhere here but knows its cost; any other raises ``error``.

    Matmul parameters are then those of two or more dimensions outside of embeddings; of these
    the output projection is the embedding itself (tied), or the last as long as an embedding.
    """
    with _reproducible():
        try:
            model = _build(build, "meta")
        except FlopsFitError:
            raise error from None
    flops = own_flops_per_token(model)
    if flops is None:
        raise error
    tables, entries, matrices = set(), set(), {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                tables.add(id(parameter))
                entries.add(parameter.shape[0])
            elif parameter.requires_grad and parameter.dim() > 1:
                matrices[id(parameter)] = parameter
    as_long = [key for key, p in matrices.items() if not entries.isdisjoint(p.shape)]
    head = tables & matrices.keys() or set(as_long[-1:])
    text = (
        f"{type(model).__name__} cannot be run here ({error}): its FLOPs are its own word, its "
        "matmul parameters all those of two or more dimensions outside of embeddings"
    )
    return ModelCount(
        num_params=num_params(model),
        params=sum(p.numel() for p in matrices.values()),
        params_nonembedding=sum(p.numel() for key, p in matrices.items() if key not in head),
        params_total=_trainable(model),
        flops_per_token=flops,
        method="model",
        warnings=(text,),
    )
