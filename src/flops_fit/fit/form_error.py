"""The error of a form of law beyond its data: how wide it is, and what it makes of an interval."""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from flops_fit.fit.cost import Numbers

PRIOR_DF = 3.0  # tests that what other families of sweeps showed counts as
TYPICAL = {"params": 0.03, "loss": 0.003}  # tau of the families, to one digit


def growth(log_ratio: float | np.ndarray) -> np.ndarray:
    """g(d) = ((ln 2 + d) / (2 ln 2))^2: the error of a form, in units of that at a doubling of C.

    ``log_ratio`` is d = ln(C / largest C of the data), a number or an array of any shape; what is
    below 0 counts as 0.
    """
    return ((np.log(2) + np.maximum(log_ratio, 0.0)) / (2 * np.log(2))) ** 2


def mean_square(squares: Numbers, mass: Numbers, known: float) -> Numbers:
    """tau^2 of tests, shrunk towards that of other sweeps, ``known`` squared.

    ``squares``: the weighted sum of the tests' squared errors at a doubling of C, noise taken off, at
    least 0; ``mass``: of their weights, of the same shape.
    """
    return (PRIOR_DF * known**2 + squares) / (PRIOR_DF + mass)


@dataclass(frozen=True)
class FormError:
    """The error of the form, in ln N* or ln L*.

    ``tau``: its size where C is twice the largest C of the data; ``df``: degrees of freedom behind
    it; ``tests``: how many predictions of budgets left out are in it.
    """

    tau: float
    df: float
    tests: int

    def half_width(self, sd: float, log_ratio: float, level: float) -> float:
        """Half of the interval at ``level``, in ln: Student's t times noise and form together.

        ``sd``: noise, in ln; ``log_ratio``: ln(C / largest C of the data).
        """
        return float(stdtrit(self.df, (1 + level) / 2) * self.spread(sd, log_ratio))

    def spread(self, sd: float, log_ratio: float) -> float:
        """Noise ``sd`` and form together, in ln, at ``log_ratio`` = ln(C / largest C of the data)."""
        return float(np.hypot(sd, self.tau * growth(log_ratio)))

    def inside(self, low: float, high: float, sd: float, log_ratio: float) -> float:
        """Probability that the truth lies between ``low`` and ``high``, ln around the estimate.

        ``sd``: noise, in ln; ``log_ratio``: ln(C / largest C of the data).
        """
        scale = max(self.spread(sd, log_ratio), 1e-300)
        return float(stdtr(self.df, high / scale) - stdtr(self.df, low / scale))
