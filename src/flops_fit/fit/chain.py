"""Chained errors: every member on every prefix of the budgets, asked for the later ones.

The errors of N*, of L* and of the runs' loss there give each member its weight in three means.
"""

from dataclasses import dataclass

import numpy as np

from flops_fit.fit.cost import Cost
from flops_fit.fit.form_error import TYPICAL, growth, mean_square
from flops_fit.fit.forms import K_, BentDesign, Fits, covariance
from flops_fit.fit.measure import Groups, Minimum
from flops_fit.fit.members import MEMBERS, law_of, weights_of
from flops_fit.fit.paths import Path
from flops_fit.fit.surface import Data

RUN_KAPPAS = (1, 2)  # of the mean for the loss of any run
AHEAD = 8  # later budgets that a prefix is asked for
WEIGHING = 2  # of them, those that weigh the members
FADE = 0.8  # weight of a test that is one budget older
UNTESTED = 0.5  # a member that missed more of the tests than this gets no weight
FLOOR_RUNS = 0.002  # error of a run, in ln L, that no member is taken to be below
QUIET = 0.0008  # noise in ln L below which no published sweep lies
REFERENCE = np.log(10.0) / 2  # ln C beyond the data at which a member's own noise is weighed


@dataclass(frozen=True)
class Chain:
    """Errors of J prefixes' K members at T nodes: (K, J, T), NaN where a node is not ahead.

    ``error``, ``sd``: {"params", "loss"} -> predicted less measured ln N* and ln L*, and the noise of
    the member there; ``se`` -> (T,) of the measurement. ``runs`` (K, J, T): mean squared error of ln L
    of the node's runs. ``log_c`` (T,); ``end``: ln C of the most expensive run; ``at`` (J,): the node
    at which each prefix ends. ``reference``: {"params", "loss"} -> (K, J), noise at `REFERENCE`
    beyond it.
    """

    log_c: np.ndarray
    end: float
    at: np.ndarray
    error: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]
    se: dict[str, np.ndarray]
    runs: np.ndarray
    reference: dict[str, np.ndarray]


def chain_of(
    data: Data,
    design: BentDesign,
    log_c: np.ndarray,
    masks: np.ndarray,
    at: np.ndarray,
    fits: dict[str, Fits],
    nodes: Groups,
    minima: list[Minimum | None],
    cost: Cost,
    lines: list[Path],
) -> Chain:
    """Every prefix of every member asked for the nodes ahead of it.

    ``data`` and ``design``: the n runs; ``log_c`` (n,): ln C of each; ``masks`` (J, n): 1 for the runs
    of each prefix, which ends at the node ``at`` (J,); ``fits`` and ``lines``: the members on every
    prefix; ``nodes``: budgets, whose measured optima are ``minima``; ``cost``: C = f(N) D.
    """
    shape = (len(MEMBERS) + len(lines), len(masks), len(nodes))
    target = np.log([c for c, _ in nodes]) if nodes else np.zeros(0)
    measured = {
        "params": np.array([m.log_n if m else np.nan for m in minima]),
        "loss": np.array([m.log_loss if m else np.nan for m in minima]),
    }
    se = {
        "params": np.array([m.se_n if m else np.nan for m in minima]),
        "loss": np.array([m.se_loss if m else np.nan for m in minima]),
    }
    error, sd = ({name: np.full(shape, np.nan) for name in measured} for _ in range(2))
    reference = {name: np.zeros(shape[:2]) for name in measured}
    squared = np.full(shape, np.nan)
    for form, f in fits.items():
        spread = covariance(data, design, f, weights_of(masks, log_c, form))
        members = [i for i, member in enumerate(MEMBERS) if member.form == form]
        ends = np.tile(target[at] if nodes else [log_c.max()], len(members))
        asked = _ahead_of(ends, target)
        optimum, noise = _asked(f.theta, spread, asked, data, cost)
        for name, value in optimum.items():
            value = value.reshape(len(members), len(masks), -1)
            spreads = noise[name].reshape(value.shape)
            error[name][members] = value[..., :-1] - measured[name]
            sd[name][members], reference[name][members] = spreads[..., :-1], spreads[..., -1]
        off = (data.log_loss - design.log_surface(f.theta)) ** 2
        for t, (_, rows) in enumerate(nodes):
            used = rows[masks[-1][rows] > 0]
            if len(used):
                squared[members, :, t] = off[:, used].mean(1).reshape(len(members), -1)
    for i, line in enumerate(lines, len(MEMBERS)):
        optimum, noise = line.at(_ahead_of(target[at], target))
        for name, value in optimum.items():
            error[name][i] = value[:, :-1] - measured[name]
            sd[name][i], reference[name][i] = noise[name][:, :-1], noise[name][:, -1]
    ahead = np.arange(len(nodes)) - at[:, None]
    away = (ahead < 1) | (ahead > AHEAD)
    for values in (*error.values(), *sd.values(), squared):
        values[:, away] = np.nan
    return Chain(target, float(log_c.max()), at, error, sd, se, squared, reference)


def _ahead_of(ends: np.ndarray, target: np.ndarray) -> np.ndarray:
    """ln C at which each prefix is asked: the nodes, and `REFERENCE` beyond its own end."""
    every = np.repeat(target[None], len(ends), axis=0)
    return np.concatenate([every, ends[:, None] + REFERENCE], axis=1)


def _asked(
    theta: np.ndarray, spread: np.ndarray, log_c: np.ndarray, data: Data, cost: Cost
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """ln N* and ln L* of R laws at (R, T) values of ln C, and their standard deviations."""
    count, many = log_c.shape
    law = law_of(np.repeat(theta, many, axis=0), data)
    log_n, loss = law.optimum(log_c.ravel(), cost)
    log_d = cost.log_tokens(log_n, log_c.ravel())
    x, y = log_n - data.centre[0], log_d - data.centre[1]
    full = np.repeat(theta, many, axis=0)
    alpha, beta, kappa = full[:, 3], full[:, 4], full[:, K_]
    price = cost.slope(log_n)
    both = np.maximum(kappa + beta * price, 1e-3)
    zero = np.zeros_like(x)
    steps = (
        np.stack(
            [zero, zero + 1, zero - 1, 1 / alpha - x, y - price / both, zero, -x - 1 / both], axis=1
        )
        / (alpha + both)[:, None]
    )
    rise = _at_points(full, x, y)
    cov = np.repeat(spread, many, axis=0)
    optimum = {"params": log_n, "loss": np.log(loss)}
    noise = {
        name: np.sqrt(np.maximum(np.einsum("ri,rij,rj->r", g, cov, g, optimize=True), 0.0))
        for name, g in (("params", steps), ("loss", rise))
    }
    return (
        {name: value.reshape(count, many) for name, value in optimum.items()},
        {name: value.reshape(count, many) for name, value in noise.items()},
    )


def _at_points(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """d ln Lhat / d theta of R laws, each at its own point: (R, 7)."""
    e, p, q, alpha, beta, g, kappa = theta.T
    first, second = p - alpha * x, q + kappa * x - beta * y
    gamma, both = np.exp(g), np.logaddexp(first, second)
    bent = gamma * both
    s = np.exp(bent - np.logaddexp(e, bent))
    j1, j2 = s * gamma * np.exp(first - both), s * gamma * np.exp(second - both)
    return np.stack([1 - s, j1, j2, -x * j1, -y * j2, s * bent, x * j2], axis=1)


def _tests(chain: Chain, prefix: int) -> np.ndarray:
    """Weights (J, T) of the tests known at a prefix: near ones on nodes up to it, fading with age."""
    ahead = np.arange(len(chain.log_c)) - chain.at[:, None]
    age = chain.at[prefix] - np.arange(len(chain.log_c))
    known = (ahead >= 1) & (ahead <= WEIGHING) & (age >= 0)[None]
    return np.where(known, FADE ** np.maximum(age, 0)[None], 0.0)


def shrunk(error: float, noise: float) -> float:
    """``error``, expected of a form, less where the best member follows the runs to a small ``noise``.

    What a form gets wrong shows in its residuals too, so runs that it follows far better than other
    sweeps allow say that it is nearly exact; ``noise`` is in ln L.
    """
    return error * min(1.0, noise / QUIET)


def expected_squares(chain: Chain, prefix: int, name: str, noise: float) -> np.ndarray:
    """Expected squared errors of shape (K,) of the members of ``chain``, known at a ``prefix``.

    ``name``: params for ln N*, loss for ln L*; ``noise``: of the runs, in ln L. They are those at
    `REFERENCE` beyond the runs: of the member's noise there, and of its form, from its tests with the
    noise of both sides taken off, and shrunk as `calibrate` shrinks that of the stack, so that a few
    tests do not decide. NaN where too few tests are known.
    """
    error, variance = chain.error[name], chain.sd[name] ** 2 + chain.se[name] ** 2
    known, test = np.isfinite(error), _tests(chain, prefix)
    test = np.where(known[0], test, 0.0)
    ends = chain.log_c[chain.at][:, None] if test.size else 0.0
    extra = np.nan_to_num((error**2 - variance) / growth(chain.log_c - ends) ** 2)
    squares = np.maximum((np.where(known & (test > 0), extra, 0.0) * test).sum(axis=(1, 2)), 0.0)
    mass = (test * known).sum(axis=(1, 2))
    form = np.asarray(mean_square(squares, mass, shrunk(TYPICAL[name], noise)))
    form[mass < UNTESTED * test.sum()] = np.nan
    return form * growth(REFERENCE) ** 2 + chain.reference[name][:, prefix] ** 2


def weigh(chain: Chain, prefix: int, name: str, noise: float) -> np.ndarray:
    """Weights of shape (K,) of the members of ``chain``, from the tests known at a ``prefix``.

    ``name``: params for N*, loss for L*; ``noise``: of the runs, in ln L. A weight is one over the
    expected squared error as far as the members differ in it: less the noise of the quietest one.
    """
    expected = expected_squares(chain, prefix, name, noise)
    # All members follow the same runs, so they share their noise, which no weights can average out.
    # It drops out of the best weights of a mean, and left in it would make members alike.
    ahead = np.where(np.isfinite(expected), chain.reference[name][:, prefix] ** 2, np.nan)
    return shares(expected - np.fmin.reduce(ahead))


def weigh_runs(chain: Chain, prefix: int, noise: float) -> np.ndarray:
    """Weights of shape (K,) of the members of ``chain`` for the loss of any run, known at a ``prefix``.

    They follow from the squared errors of the runs ahead; ``noise``: of the runs, in ln L.
    """
    test = _tests(chain, prefix)
    test = np.where(np.isfinite(chain.runs[0]), test, 0.0)
    if test.sum() > 0:
        mean = (np.nan_to_num(chain.runs) * test).sum(axis=(1, 2)) / test.sum()
    else:
        mean = chain.reference["loss"][:, prefix] ** 2
    allowed = np.zeros(len(mean))
    allowed[: len(MEMBERS)] = [member.kappa in RUN_KAPPAS for member in MEMBERS]
    return shares(mean + shrunk(FLOOR_RUNS, noise) ** 2, allowed)


def shares(expected: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
    """Weights of shape (K,): 1 over ``expected`` (K,), squared errors; they sum to 1, NaN gets nothing.

    ``allowed`` of shape (K,): 0 for members that get nothing either.
    """
    share = np.where(np.isfinite(expected), 1 / np.maximum(expected, 1e-40), 0.0)
    share = share if allowed is None else share * allowed
    return share / share.sum() if share.sum() > 0 else np.full(len(share), 1 / len(share))
