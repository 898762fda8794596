"""Parameters and FLOPs per token of a model, counted from its forward and backward pass.

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

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import default_collate

from flops_fit.constants import flops_6nd
from flops_fit.errors import FlopsFitError
from flops_fit.model_factory import create_model, num_params
from flops_fit.plan.one_pass import (
    ITEMS,
    Pass,
    build_on,
    own_flops_per_token,
    reproducible,
    trainable_params,
)
from flops_fit.sweep import SIX_ND, ModelCount

CPU_PARAMS = 20_000_000  # models up to here are run for real where they cannot run on meta
EXTRAPOLATED_FROM = 5  # sizes: a cubic through the upper four, another through the lower four
TRIES = 10  # at most, the largest first, to find such sizes
TOLERANCE = 0.01  # by which the two may differ at the size that is asked for
USUAL_RATIO = (0.7, 1.5)  # of FLOPs per token to 6 N; beyond, 6 N D does not stand for the cost


def count_model(
    build: Callable[[], nn.Module],
    example: tuple[Any, Any],
    loss_fn: Callable[[Any, Any], torch.Tensor],
    tokens_per_item: float,
    collate_fn: Callable[[list], Any] = default_collate,
) -> ModelCount:
    """Count the one model that ``build()`` makes.

    ``example``, ``loss_fn``, ``tokens_per_item`` and ``collate_fn`` as in `count_sizes`. Where the model
    cannot run on the meta device it is built and run on the CPU, whatever its size.
    """
    pass_ = Pass(example, loss_fn, tokens_per_item, collate_fn)
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
    the size value through the four largest of five small sizes (those asked for, then others
    as round); a cubic through the four smallest must agree within 1% at the size asked for.

    A model's own ``flops_per_token()`` (forward and backward, per target element) is believed;
    a model that has one may even fail to run here (kernels for GPUs only): then its parameters
    are kept apart by the modules that hold them, and a warning says so.

    Raises `FlopsFitError` when a size cannot be built or run, when the loss is no scalar that
    depends on a trainable parameter, and when the extrapolation does not hold.
    """
    sizes = list(sizes)
    pass_ = Pass(example, loss_fn, tokens_per_item, collate_fn, items)

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
            counts = {s: _count_by_modules(partial(build, s), reason) for s in sizes}
    else:
        counts |= {size: count(size, "meta") for size in sizes if size not in counts}
    return {size: counts[size] for size in sizes}


def count_warnings(counts: Mapping[Any, ModelCount], size_param: str, convention: str) -> list[str]:
    """Sentences on ``counts``, by size, that are to be read before the figures are trusted.

    ``size_param`` is the name of the size, and ``convention`` what a budget means.
    """
    warnings = list(dict.fromkeys(w for count in counts.values() for w in count.warnings))
    warnings += _equal_sizes(counts, size_param)
    return warnings + (ratio_warnings(counts, size_param) if convention == SIX_ND else [])


def _equal_sizes(counts: Mapping[Any, ModelCount], size_param: str) -> list[str]:
    """A sentence for sizes that cannot be distinguished from each other."""
    alike: dict[tuple[int, float], list[str]] = {}
    for size, count in counts.items():
        alike.setdefault((count.params_total, count.flops_per_token), []).append(str(size))
    return [
        f"{size_param}={', '.join(sizes)}: all have {params} parameters and {flops:g} FLOPs per token, "
        f"so they are one size: does the model use {size_param}?"
        for (params, flops), sizes in alike.items()
        if len(sizes) > 1
    ]


def ratio_warnings(counts: Mapping[Any, ModelCount], size_param: str) -> list[str]:
    """Sentences on sizes whose compute differs much from 6 N D, where budgets mean 6 N D.

    ``counts``: the counts by size; ``size_param``: the name of the size.
    """
    ratios = {size: c.flops_per_token / flops_6nd(c.num_params, 1) for size, c in counts.items()}
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
    """First and last of ``values`` as text, or the only one."""
    return " to ".join(dict.fromkeys([*values[:1], *values[-1:]]))


# ---------------------------------------------------------------- where meta does not do


def _count_on_cpu(
    count: Callable[[Any, str], ModelCount],
    build: Callable[[Any], nn.Module],
    size_param: str,
    sizes: Iterable,
    meta_error: Exception,
) -> dict[Any, ModelCount]:
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


def _small_sizes(build: Callable[[Any], nn.Module], sizes: Iterable) -> list:
    """Sizes that can be built and are small enough to run, ascending."""
    small: list[int | float] = []
    params = 0
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


def _ladder(sizes: Iterable) -> list:
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


def _total_params(build: Callable[[Any], nn.Module], size: Any, device: str) -> int:
    with reproducible():
        return sum(p.numel() for p in build_on(lambda: build(size), device).parameters())


def _extrapolate(
    points: dict[Any, ModelCount],
    size: Any,
    build: Callable[[Any], nn.Module],
    size_param: str,
    meta_error: Exception,
) -> ModelCount:
    sizes = sorted(points)
    largest = points[sizes[-1]]
    known = _known_without_running(build, size, smaller=sizes[-1])
    figures: dict[str, Any] = {}
    for field in ("num_params", "params", "params_nonembedding", "params_total", "flops_per_token"):
        values = {s: Fraction(getattr(points[s], field)) for s in sizes}
        lower, upper = (_cubic(values, nodes, size) for nodes in (sizes[:-1], sizes[1:]))
        value = Fraction(known[field]) if field in known else upper
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


def _known_without_running(
    build: Callable[[Any], nn.Module], size: Any, smaller: Any
) -> dict[str, float]:
    """Figures that the model tells once it is built, if that works without memory at all."""
    with reproducible():
        try:
            model = build_on(lambda: build(size), "meta")
        except FlopsFitError:
            try:
                build_on(lambda: build(smaller), "meta")
            except FlopsFitError:
                return {}
            raise  # it is this size that cannot be built
    known: dict[str, float] = {
        "num_params": num_params(model),
        "params_total": trainable_params(model),
    }
    stated = own_flops_per_token(model)
    return known if stated is None else {**known, "flops_per_token": stated}


def _cubic(values: dict, nodes: list, x: Any) -> Fraction:
    """The polynomial through ``values`` at four nodes, exactly (Lagrange's form)."""
    terms = (
        values[i] * math.prod(Fraction(x - j) / Fraction(i - j) for j in nodes if j != i)
        for i in nodes
    )
    return sum(terms, Fraction(0))


# ------------------------------------------------------------------ where nothing runs at all


def _count_by_modules(build: Callable[[], nn.Module], error: FlopsFitError) -> ModelCount:
    """A model that runs nowhere here but knows its cost; any other raises ``error``.

    Matmul parameters are then those of two or more dimensions outside of embeddings; of these
    the output projection is the embedding itself (tied), or the last as long as an embedding.
    """
    with reproducible():
        try:
            model = build_on(build, "meta")
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
        params_total=trainable_params(model),
        flops_per_token=flops,
        method="model",
        warnings=(text,),
    )
