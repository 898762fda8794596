"""How numbers are written for people, the same in figures, on pages and in tables."""

import math
from collections.abc import Callable, Iterable

SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
SUFFIXES = ("", "k", "M", "B", "T")


def count_text(value: float, digits: int = 3) -> str:
    """``value``, a count or a ratio, with ``digits`` significant digits: 81.5k, 2.92M, 73.0B."""
    if value == 0:
        return "0"
    value = float(f"{value:.{digits - 1}e}")
    place = min(max(math.floor(math.log10(abs(value))) // 3, 0), len(SUFFIXES) - 1)
    scaled = value / 1000**place
    if abs(scaled) >= 1e4 or abs(value) < 1e-3:
        return flops_text(value, digits)
    decimals = max(digits - 1 - math.floor(math.log10(abs(scaled))), 0)
    return f"{scaled:.{decimals}f}{SUFFIXES[place]}"


def flops_text(value: float, digits: int = 3) -> str:
    """``value`` FLOPs as a power of ten with up to ``digits`` digits: 8.1×10¹¹, 10¹⁸."""
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = "10" + str(int(exponent)).translate(SUPERSCRIPTS)
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return power if mantissa == "1" else f"{mantissa}×{power}"


def loss_text(value: float) -> str:
    """A loss ``value`` with four decimals, or with four significant digits below 0.1."""
    return f"{value:.4f}" if abs(value) >= 0.1 else f"{value:.4g}"


def span_text(values: Iterable[float], write: Callable[[float], str]) -> str:
    """The lowest and the highest of ``values`` by ``write``; one text where both are written alike."""
    ends = list(values)
    return " to ".join(dict.fromkeys(map(write, (min(ends), max(ends)))))


def factor_text(value: float) -> str:
    """``value`` as a multiple: ×1, ×3, ×0.5, ×7.72."""
    return f"×{value:.3g}"


def share_text(value: float) -> str:
    """The fraction ``value`` as a percentage: 1.57%."""
    return f"{100 * value:.2f}%"


def waste_text(waste: float | None) -> str:
    """Extra compute ``waste``, a share of C, as text such as +14%; None: no compute is enough."""
    if waste is None:
        return "no compute is enough"
    percent = 100 * waste
    if waste < 10:
        return f"+{percent:.1f}%" if percent >= 1 else f"+{percent:.3g}%"
    return f"x {1 + waste:.3g}"


def time_text(seconds: float, digits: int = 3) -> str:
    """A duration of ``seconds`` with up to ``digits`` digits: 48 s, 5.2 min, 3.1 h."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (math.inf, 3600, "h")):
        if seconds < limit:
            return f"{float(f'{seconds / unit:.{digits}g}'):g} {name}"
    raise ValueError(f"not a duration: {seconds}")


def unit_text(unit: str) -> str:
    """The name of a loss ``unit`` on pages and axes; FIT.json writes "nats" for nats per token."""
    return "nats per token" if unit == "nats" else unit
