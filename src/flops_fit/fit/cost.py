"""What a run costs: C = f(N) D, with f in FLOPs per token.

Small models do not cost 6 N per token (embeddings look-ups are free, attention and the head are
not), so f comes from the runs where they record it, and N* is found on that true cost.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator

from flops_fit.constants import FLOPS_PER_PARAM_TOKEN
from flops_fit.fit.sizes import Size

Numbers = float | np.ndarray
Curve = Callable[[np.ndarray], np.ndarray]
SAME_COST = 1e-6  # relative: closer than this to 6 N D is 6 N D
TAIL_SIZES = 4  # the largest known, from which f is extrapolated
SLOWEST = 0.02  # power of N: a slope that fades less than this is no trend to go on
STEADY = 0.02  # ln: spread of C / (N D) at one N that still makes a function of N


@dataclass(frozen=True)
class Tail:
    """ln(f / N) above ln N0 = ``start``: from ``value`` on with ``slope``, which fades as N^-power.

    A matrix product costs 6 FLOPs per parameter and token; attention, and what N leaves out or counts
    for nothing, is a share of that which falls as a power of N in models of one family. The slope of
    ln(f / N) then falls as the same power, in whatever way N is counted.
    """

    value: float
    steepness: float  # slope at the start
    power: float
    start: float

    def log_ratio(self, log_n: np.ndarray) -> np.ndarray:
        """ln(f / N) at ``log_n`` = ln N, a number or an array of any shape."""
        faded = -np.expm1(-self.power * (log_n - self.start))
        return self.value + self.steepness / self.power * faded

    def slope(self, log_n: np.ndarray) -> np.ndarray:
        """d ln(f / N) / d ln N at ``log_n`` = ln N, a number or an array of any shape."""
        return self.steepness * np.exp(-self.power * (log_n - self.start))


@dataclass(frozen=True)
class Cost:
    """f(N) = factor x N, or with ``params``/``per_token`` known at some N, interpolated in ln-ln.

    Between the known sizes ln(f / N) is a monotone cubic (PCHIP) in ln N. Above them its slope
    fades as a power of N (`Tail`) where the last sizes show that it does, else f / N keeps its last
    value, as it does below them. ``trend`` False keeps it above them too.
    """

    factor: float = float(FLOPS_PER_PARAM_TOKEN)
    params: tuple[float, ...] = ()
    per_token: tuple[float, ...] = ()
    trend: bool = True

    @cached_property
    def _ratio(self) -> tuple[Curve, Curve, tuple[float, float]] | None:
        """ln(f / N) over ln N, its derivative and the ends of ln N; None for f = factor x N."""
        if len(self.params) < 2:
            return None
        known = np.log(self.params)
        curve = PchipInterpolator(known, np.log(self.per_token) - known)
        return curve, curve.derivative(), (known[0], known[-1])

    @cached_property
    def _tail(self) -> "Tail | None":
        """How f / N goes on above the largest size; None where no trend can be read."""
        if not self.trend or len(self.params) < TAIL_SIZES:
            return None
        log_n = np.log(self.params[-TAIL_SIZES:])
        ratio = np.log(self.per_token[-TAIL_SIZES:]) - log_n
        slopes = np.diff(ratio) / np.diff(log_n)
        size = np.abs(slopes)
        if size.min() < SAME_COST or len(set(np.sign(slopes))) > 1:
            return None
        middle = (log_n[1:] + log_n[:-1]) / 2
        power, level = np.polyfit(middle - log_n[-1], np.log(size), 1)
        if power > -SLOWEST:
            return None
        steepness = float(np.sign(slopes[-1]) * np.exp(level))
        return Tail(float(ratio[-1]), steepness, float(-power), float(log_n[-1]))

    @property
    def beyond(self) -> str:
        """How f goes on above the largest size known, as text."""
        if self._ratio is None:
            return "f is proportional to N"
        if self._tail is None:
            return "above the largest size f / N keeps its last value"
        return (
            f"above the largest size f / N follows the trend of the last {TAIL_SIZES} sizes, with a "
            f"slope that falls as N^-{self._tail.power:.2f}"
        )

    def log_flops_per_token(self, log_n: Numbers) -> np.ndarray:
        """ln f at ``log_n`` = ln N, of the same shape."""
        log_n = np.asarray(log_n, dtype=float)
        if self._ratio is None:
            return log_n + np.log(self.factor)
        curve, _, ends = self._ratio
        inside = log_n + curve(np.clip(log_n, *ends))
        if self._tail is None:
            return inside
        above = np.maximum(log_n, ends[1])
        return np.where(log_n > ends[1], log_n + self._tail.log_ratio(above), inside)

    def slope(self, log_n: Numbers) -> np.ndarray:
        """d ln f / d ln N at ``log_n`` = ln N, of the same shape; 1 for f proportional to N."""
        log_n = np.asarray(log_n, dtype=float)
        if self._ratio is None:
            return np.ones_like(log_n)
        _, slope, (low, high) = self._ratio
        inside = (log_n > low) & (log_n < high)
        known = 1 + np.where(inside, slope(np.clip(log_n, low, high)), 0.0)
        if self._tail is None:
            return known
        return np.where(log_n >= high, 1 + self._tail.slope(np.maximum(log_n, high)), known)

    def log_tokens(self, log_n: Numbers, log_c: Numbers) -> np.ndarray:
        """ln D of a run of ``log_n`` = ln N that spends ``log_c`` = ln C; shapes broadcast."""
        return log_c - self.log_flops_per_token(log_n)

    def log_params(self, log_d: float, log_c: float) -> float:
        """ln N of the model that ``log_c`` = ln C trains on ``log_d`` = ln D."""
        low, high = log_c - log_d - 60.0, log_c - log_d + 60.0  # f / N lies within e^60 of 1
        for _ in range(80):
            middle = (low + high) / 2
            fits = self.log_tokens(middle, log_c) > log_d
            low, high = (middle, high) if fits else (low, middle)
        return float((low + high) / 2)

    def to_dict(self) -> dict:
        """As FIT.json keeps it."""
        return {
            "factor": self.factor,
            "params": list(self.params),
            "flops_per_token": list(self.per_token),
        }

    @classmethod
    def from_dict(cls, value: dict) -> "Cost":
        """The inverse of `to_dict`, from the object ``value``."""
        return cls(value["factor"], tuple(value["params"]), tuple(value["flops_per_token"]))


def cost_of(frame: pd.DataFrame, sizes: Iterable[Size] = ()) -> tuple[Cost, str]:
    """The cost model of the runs in ``frame``, and a sentence on where it is from.

    ``frame``: columns params, tokens, flops. ``sizes``: those whose FLOPs per token are known come
    before what the runs show; those beyond the runs count only where the cost of the others is known.
    """
    known = {s.params: s.flops_per_token for s in sizes if s.flops_per_token}
    largest = frame["params"].max() * (1 + SAME_COST)
    beyond = {n: f for n, f in known.items() if n > largest}
    known = {n: f for n, f in known.items() if n <= largest}
    ratio = frame["flops"] / (frame["params"] * frame["tokens"])
    if not known and (np.abs(ratio / FLOPS_PER_PARAM_TOKEN - 1) < SAME_COST).all():
        return Cost(), "C = 6 N D"
    if not known:
        by_size = np.log(ratio).groupby(frame["params"])
        if (by_size.max() - by_size.min()).max() < STEADY and frame["params"].nunique() < len(
            frame
        ):
            known = (np.exp(by_size.median()) * by_size.median().index).to_dict()
    if known:
        known |= beyond
    if len(known) >= 2 and np.ptp([np.log(f / n) for n, f in known.items()]) > SAME_COST:
        params = tuple(sorted(known))
        cost = Cost(float(FLOPS_PER_PARAM_TOKEN), params, tuple(known[n] for n in params))
        text = f"C = f(N) D, f interpolated between the FLOPs per token of {len(params)} sizes"
        if beyond:
            text += f", {len(beyond)} of them counted beyond the runs"
        return cost, f"{text}; {cost.beyond}"
    factor = float(np.median([f / n for n, f in known.items()] if known else ratio))
    if abs(factor / FLOPS_PER_PARAM_TOKEN - 1) < SAME_COST:
        return Cost(), "C = 6 N D"
    return Cost(factor), f"C = {factor:.4g} N D, the median of the runs"
