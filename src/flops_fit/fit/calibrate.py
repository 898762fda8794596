"""How wrong a form of law is ahead of its data, from the stack's errors on budgets left out.

The error of the form, in ln N* or ln L*, grows with distance as g(d) = ((ln 2 + d) / (2 ln 2))^2 with
d = ln(C / largest C of the runs), so tau is its size where C is doubled. A sweep shows tau itself,
through the errors of the stack of every prefix of its budgets (weights from earlier budgets only),
with the noise of both sides taken off; few budgets show little, so the mean square is shrunk to what
other families of sweeps showed (`prior.json`), which counts as `PRIOR_DF` tests. That prior
shrinks itself where a member follows the runs far better than in any of those sweeps.
"""

from functools import cache
from pathlib import Path

import numpy as np

from flops_fit.files import read_json
from flops_fit.fit.chain import FADE, shrunk, weigh
from flops_fit.fit.form_error import PRIOR_DF, TYPICAL, FormError, growth, mean_square
from flops_fit.fit.sections import ChainTest
from flops_fit.fit.stack import Stack

PRIOR = Path(__file__).with_name("prior.json")
ENOUGH = 0.5  # of the budgets: stacks of fewer say little about the whole
QUANTITIES = ("params", "loss")


@cache
def prior() -> dict[str, float]:
    """tau at a doubling of C over other families of sweeps: {"params", "loss", ...}."""
    return read_json(PRIOR)


def tests_of(stack: Stack, name: str) -> list[ChainTest]:
    """The predictions of ``stack`` for budgets ahead, against what was measured there.

    ``name``: params for errors of ln N*, loss for those of ln L*.
    """
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
                    ChainTest(
                        trained_up_to=float(np.exp(chain.log_c[at])),
                        flops=float(np.exp(chain.log_c[t])),
                        error=float(weight[used] @ error[used]),
                        sd=float(weight[used] @ chain.sd[name][used, j, t]),
                        se=float(chain.se[name][t]),
                        ahead=int(t - at),
                        distance=float(chain.log_c[t] - chain.log_c[at]),
                        age=int(nodes - 1 - t),
                    )
                )
    return tests


def moments(tests: list[ChainTest], name: str) -> tuple[float, float]:
    """S and W: the weighted sum of squared errors at a doubling, noise taken off, and of the weights.

    ``tests`` are those of ln N* (``name`` params) or ln L* (loss).

    A test whose noise drowns an error of the `TYPICAL` size says little about it: its weight falls by
    the share of that error in the variance, squared, as the precision of a squared error does.
    """
    squares, mass = 0.0, 0.0
    for test in tests:
        g2 = float(growth(test.distance)) ** 2
        noise, form = test.se**2 + test.sd**2, TYPICAL[name] ** 2 * g2
        weight = FADE**test.age / test.ahead * (form / (form + noise)) ** 2
        squares += weight * (test.error**2 - noise) / g2
        mass += weight
    return max(squares, 0.0), mass


def from_tests(squares: float, mass: float, known: float, tests: int = 0) -> FormError:
    """The error of the form of a table, shrunk towards tau = ``known``.

    ``squares`` and ``mass`` are the `moments` of its ``tests``, whose number is recorded.
    """
    tau = np.sqrt(mean_square(squares, mass, known))
    return FormError(float(tau), PRIOR_DF + mass, tests)


def form_error(stack: Stack, name: str) -> FormError:
    """The error of the form of ``stack``, shrunk towards that of other families of sweeps.

    ``name``: params for ln N*, loss for ln L*.
    """
    tests = tests_of(stack, name)
    known = shrunk(prior()[name], stack.noise)
    return from_tests(*moments(tests, name), known, len(tests))
