"""Sizes of a model, where the config asks for a window of tokens per parameter."""

from collections.abc import Callable, Sequence
from functools import partial

FEWEST_SIZES = 5  # of one budget: with fewer, the sides of its curve hide where the minimum lies


def _at_most(limit: float, tokens: float, ratio: float) -> bool:
    return ratio <= limit


def window_sizes(
    budget: float,
    flops_and_params: Callable[[int], tuple[float, int]],
    *,
    tokens_per_param: Sequence[float] = (2, 200),
    count: int = 7,
    multiple: int = 1,
    max_size: int = 1 << 20,
    min_tokens: float = 0,
) -> list[int]:
    """Integer size values, even in ln N, whose curve spans ``tokens_per_param`` at ``budget`` FLOPs.

    ``flops_and_params(size)`` gives FLOPs per token and N, both rising with the size. The default
    range lies on both sides of the optima that published laws find (about 20 tokens per parameter,
    Hoffmann et al. 2022, arXiv 2203.15556). Returns about ``count`` sizes, all multiples of
    ``multiple`` and at most ``max_size``. Sizes whose D would fall below ``min_tokens`` are left out
    as long as smaller sizes can replace them. Where whole numbers are too coarse for five sizes,
    neighbouring sizes are added.
    """
    low, high = sorted(tokens_per_param)
    most = max_size // multiple  # below, sizes are counted in multiples

    def tokens_and_ratio(size: int) -> tuple[float, float]:
        flops, params = flops_and_params(size * multiple)
        return budget / flops, budget / flops / params

    def first(holds: Callable[[float, float], bool]) -> int:
        """The smallest size from which ``holds(D, D / N)`` is true (a bisection)."""
        below, above = 0, 1
        while above < most and not holds(*tokens_and_ratio(above)):
            below, above = above, min(above * 2, most)
        while above - below > 1:
            middle = (above + below) // 2
            below, above = (below, middle) if holds(*tokens_and_ratio(middle)) else (middle, above)
        return above

    too_large = first(lambda tokens, ratio: tokens < min_tokens or ratio < low)
    largest = max(too_large - 1, 1)
    smallest = min(first(lambda tokens, ratio: ratio <= high), largest)
    if smallest > largest // 2:  # the floor cuts into the window: look further down instead
        smallest = max(largest // 8, 1)
    top, bottom = tokens_and_ratio(smallest)[1], tokens_and_ratio(largest)[1]
    ratios = [top * (bottom / top) ** (i / (count - 1)) for i in range(1, count - 1)]
    sizes = {smallest, largest, *(first(partial(_at_most, limit)) for limit in ratios)}
    while len(sizes) < FEWEST_SIZES and max(sizes) < most:
        sizes.add(max(sizes) + 1 if min(sizes) == 1 or max(sizes) < largest else min(sizes) - 1)
    return [size * multiple for size in sorted(sizes)]
