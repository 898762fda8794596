"""A goal such as "N within 1.25x at 1e13": read, and held against an answer and the possible."""

import math
import re
from dataclasses import dataclass

from scipy.special import stdtrit

from flops_fit.errors import FlopsFitError
from flops_fit.fit.answer import Answer, Optimum
from flops_fit.fit.form_error import FormError
from flops_fit.fit.numbers import check_flops
from flops_fit.notation import count_text, flops_text, loss_text
from flops_fit.rounds.next import number

GRAMMAR = re.compile(r"\s*(\S+)\s+within\s+([0-9.eE+-]+?)\s*(x|%|nats)\s+at\s+(\S+)\s*")
QUANTITIES = {"N": "params", "D": "tokens", "loss": "loss"}
UNITS = {"N": ("x",), "D": ("x",), "loss": ("%", "nats")}
ALLOWED = (
    'allowed: "N within 1.25x at 1e13", "D within 1.25x at 1e13", "loss within 1% at 1e13" or "loss '
    'within 0.02 nats at 1e13", where 1e13 is the budget C in FLOPs'
)


@dataclass(frozen=True)
class Goal:
    """An interval to reach: that of ``name`` (N, D or loss) at C = ``flops``.

    Both of its ends lie ``within`` a factor (``unit`` x), a percentage or a number of nats of the
    estimate.
    """

    name: str
    within: float
    unit: str
    flops: float

    @property
    def text(self) -> str:
        """The goal as it is written."""
        unit = " nats" if self.unit == "nats" else self.unit
        return f"{self.name} within {self.within:g}{unit} at {number(self.flops)}"

    @property
    def quantity(self) -> str:
        """The key of the interval in an answer: params, tokens or loss."""
        return QUANTITIES[self.name]

    @property
    def law(self) -> str:
        """Which of ln N* (params) and ln L* (loss) the goal is about; D* follows from N*."""
        return "loss" if self.name == "loss" else "params"

    def half_width(self, loss: float | None) -> float | None:
        """The half of the widest interval that reaches the goal, in ln.

        ``loss`` is L*, without which nats have no width in ln: None.
        """
        if self.unit == "x":
            return math.log(self.within)
        if self.unit == "%":
            return math.log1p(self.within / 100)
        return None if loss is None else math.log1p(self.within / loss)

    def as_text(self, half: float, loss: float | None = None) -> str:
        """A ``half`` width in ln in the unit of the goal; nats need ``loss`` = L*."""
        if self.unit == "x":
            return f"{math.exp(half):.3g}x"
        if self.unit == "nats" and loss is not None:
            return f"{loss * math.expm1(half):.3g} nats"
        return f"{100 * math.expm1(half):.3g}%"

    def reached(self, answer: Answer | Optimum) -> bool:
        """Whether the interval of ``answer`` is as narrow as the goal."""
        half, most = reach_of(self, answer), self.half_width(answer.loss)
        return half is not None and most is not None and half <= most


def parse_goal(text: str, source: str = "--until") -> Goal:
    """The goal that ``text`` states.

    Raises `FlopsFitError` that names the ``source`` of the text and what is allowed.
    """
    match = GRAMMAR.fullmatch(text)
    if match is None or match[1] not in QUANTITIES:
        raise FlopsFitError(f"{source}: {text!r} is not a goal; {ALLOWED}")
    name, unit = match[1], match[3]
    if unit not in UNITS[name]:
        raise FlopsFitError(f"{source}: {text!r}: {name} has no interval in {unit}; {ALLOWED}")
    try:
        within, flops = float(match[2]), check_flops(float(match[4]))
    except ValueError:
        raise FlopsFitError(f"{source}: {text!r} is not a goal; {ALLOWED}") from None
    if not (math.isfinite(within) and within > (1 if unit == "x" else 0)):
        least = "a factor above 1" if unit == "x" else "a number above 0"
        raise FlopsFitError(f"{source}: {text!r}: within {match[2]}{unit}; allowed: {least}")
    return Goal(name, within, unit, flops)


def reach_of(goal: Goal, answer: Answer | Optimum) -> float | None:
    """How far, in ln, the interval of the goal's quantity in ``answer`` reaches; None without one."""
    best = getattr(answer, goal.quantity)
    if best is None or not answer.ci:
        return None
    low, high = answer.ci[goal.quantity]
    return max(math.log(high / best), math.log(best / low))


def interval_text(goal: Goal, answer: Answer | Optimum) -> str:
    """The interval of the goal's quantity in ``answer`` as text, in the unit of the goal."""
    half = reach_of(goal, answer)
    if half is None or answer.ci is None:
        return f"{goal.name} not known"
    write = loss_text if goal.name == "loss" else count_text
    best, ends = getattr(answer, goal.quantity), answer.ci[goal.quantity]
    return (
        f"{goal.name} {write(best)} within {goal.as_text(half, answer.loss)} "
        f"({write(ends[0])} to {write(ends[1])})"
    )


def form_alone(form: FormError, flops: float, largest: float, level: float) -> float:
    """Half of the interval, in ln, that the error of the ``form`` alone gives at C = ``flops``.

    ``largest``: the largest budget of the runs, in FLOPs; ``level``: of the interval.
    """
    return form.half_width(0.0, math.log(flops / largest), level)


def budget_for(form: FormError, flops: float, half: float, level: float) -> float | None:
    """The least budget of runs whose error of the ``form`` allows an interval of ``half`` at ``flops``.

    ``half`` is in ln; ``level``: of the interval. None where no budget up to C = ``flops`` does. It
    inverts `flops_fit.fit.form_error.growth`.
    """
    share = half / (float(stdtrit(form.df, (1 + level) / 2)) * form.tau)
    away = 2 * math.log(2) * math.sqrt(share) - math.log(2)
    return flops * math.exp(-away) if away >= 0 else None


def check_possible(goal: Goal, form: FormError, largest: float, level: float, source: str) -> str:
    """A sentence on what the error of the ``form`` alone costs at the ``goal``.

    ``largest``: the largest budget that runs may have, in FLOPs; ``level``: of the interval;
    ``source``: where the error is from, as text. Raises `FlopsFitError` for a goal that no runs up to
    ``largest`` can reach, and names the budget that would reach it.
    """
    alone, most = form_alone(form, goal.flops, largest, level), goal.half_width(None)
    beyond = goal.flops / largest
    text = (
        f"{goal.name} within {goal.as_text(alone)} at {beyond:.3g} times the largest budget "
        f"({flops_text(largest)} FLOPs)"
    )
    if most is None or alone < most:
        return f"the error of the form of law alone allows {text} ({source})"
    needed = budget_for(form, goal.flops, most, level)
    budgets = (
        f"or a config with a budget above {flops_text(needed)} FLOPs"
        if needed
        else "since runs of any budget have a larger error of the form"
    )
    raise FlopsFitError(
        f"--until: {goal.text}: the error of the form of law alone allows {text} ({source}), however "
        f"many runs there are; allowed: a wider goal, {budgets}"
    )
