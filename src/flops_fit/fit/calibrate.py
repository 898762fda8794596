"""What a form of law is worth ahead of its data: the stack's own errors on budgets left out.

The error of the form, in ln N* or ln L*, grows with distance as g(d) = ((ln 2 + d) / (2 ln 2))^2 with
d = ln(C / largest C of the runs), so tau is its size where C is doubled. A sweep shows tau itself,
through the errors of the stack of every prefix of its budgets (weights from earlier budgets only),
with the noise of both sides taken off; few budgets show little, so the mean square is shrunk to what
other families of sweeps showed (`prior.json`), which counts as `PRIOR_DF` tests.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from flops_fit.files import read_json
from flops_fit.fit.chain import FADE, weigh
from flops_fit.fit.stack import Stack

PRIOR = Path(__file__).with_name("prior.json")
PRIOR_DF = 3.0
ENOUGH = 0.5  # of the budgets: stacks of fewer say little about the whole
QUANTITIES = ("params", "loss")
TYPICAL = {"params": 0.03, "loss": 0.003}  # tau of the families, to one digit


@cache
def prior() -> dict:
    """tau at a doubling of C over other families: {"params", "loss", ...}."""
    return read_json(PRIOR)


def growth(log_ratio: float | np.ndarray) -> np.ndarray:
    """g(d): the error of a form at ln(C / largest C), in units of that at a doubling."""
    return ((np.log(2) + np.maximum(log_ratio, 0.0)) / (2 * np.log(2))) ** 2


@dataclass(frozen=True)
class FormError:
    """tau at a doubling of C, the degrees of freedom behind it, and how many tests are in it."""

    tau: float
    df: float
    tests: int

    def half_width(self, sd: float, log_ratio: float, level: float) -> float:
        """Half of the interval at ``level``: Student's t times the noise ``sd`` and tau g."""
        return float(student.ppf((1 + level) / 2, self.df) * self.spread(sd, log_ratio))

    def spread(self, sd: float, log_ratio: float) -> float:
        """Noise and form together, in ln."""
        return float(np.hypot(sd, self.tau * growth(log_ratio)))

    def inside(self, low: float, high: float, sd: float, log_ratio: float) -> float:
        """Probability that the truth lies between ``low`` and ``high`` (ln, around the estimate)."""
        scale = max(self.spread(sd, log_ratio), 1e-300)
        return float(student.cdf(high / scale, self.df) - student.cdf(low / scale, self.df))


def tests_of(stack: Stack, name: str) -> list[dict]:
    """The stack's errors ahead: ``error, se, sd`` (ln), ``ahead`` (budgets), ``distance``, ``age``."""
    chain, tests = stack.chain, []
    nodes = len(chain.log_c)
    for j, at in enumerate(chain.at[:-1]):
        if at + 1 < ENOUGH * nodes:
            continue
        weight = weigh(chain, j, name, stack.noise)
        for t in range(at + 1, nodes):
            error, used = chain.error[name][:, j, t], weight > 0
            if np.isfinite(error[used]).all():
                tests.append(
                    {
                        "trained_up_to": float(np.exp(chain.log_c[at])),
                        "flops": float(np.exp(chain.log_c[t])),
                        "error": float(weight[used] @ error[used]),
                        "sd": float(weight[used] @ chain.sd[name][used, j, t]),
                        "se": float(chain.se[name][t]),
                        "ahead": int(t - at),
                        "distance": float(chain.log_c[t] - chain.log_c[at]),
                        "age": int(nodes - 1 - t),
                    }
                )
    return tests


def moments(tests: list[dict], name: str) -> tuple[float, float]:
    """S and W: the weighted sum of squared errors at a doubling, noise taken off, and the weights'.

    A test whose noise drowns an error of the `TYPICAL` size says little about it: its weight falls by
    the share of that error in the variance, squared, as the precision of a squared error does.
    """
    squares, mass = 0.0, 0.0
    for test in tests:
        g2 = float(growth(test["distance"])) ** 2
        noise, form = test["se"] ** 2 + test["sd"] ** 2, TYPICAL[name] ** 2 * g2
        weight = FADE ** test["age"] / test["ahead"] * (form / (form + noise)) ** 2
        squares += weight * (test["error"] ** 2 - noise) / g2
        mass += weight
    return max(squares, 0.0), mass


def from_tests(squares: float, mass: float, known: float, tests: int = 0) -> FormError:
    """`FormError` of a table whose tests have these `moments`, shrunk towards tau = ``known``."""
    tau = np.sqrt((PRIOR_DF * known**2 + squares) / (PRIOR_DF + mass))
    return FormError(float(tau), PRIOR_DF + mass, tests)


def form_error(stack: Stack, name: str) -> FormError:
    """The error of the form of one table, shrunk towards that of other families."""
    tests = tests_of(stack, name)
    return from_tests(*moments(tests, name), prior()[name], len(tests))
