"""How often the stated intervals hold the truth, on simulated sweeps.

    python benchmarks/coverage.py [--simulations 600] [--headline 200] [--scenario NAME ...]

Nine scenarios; in each, runs are simulated from a known law, fitted as `flops-fit fit` does, and the
nominal 90% interval of a, and of ln N* and L* at 10x the largest budget, is compared with the truth,
for the surface, the IsoFLOP minima and the stack, which costs most (on the first --headline
simulations; its interval ``ci`` holds the error of the form, the others hold noise alone). ``rmse`` is
of the estimate, ``gap`` the mean distance between surface and minima in ln N*. The last line is one JSON
object.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass, field
from functools import cache

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from scipy.special import ndtri

from flops_fit.fit.bootstrap import draw
from flops_fit.fit.calibrate import QUANTITIES, form_error
from flops_fit.fit.cost import Cost
from flops_fit.fit.estimators import Runs, estimate_isoflop, estimate_surface
from flops_fit.fit.prediction import spread_of_draws
from flops_fit.fit.runs import budget_groups
from flops_fit.fit.stack import build

LEVEL = 0.90
BEYOND = 10.0
LOW, HIGH = 1e18, 1e21
BESIROGLU = (1.8172, 482.0, 2085.4, 0.3478, 0.3658)  # 2404.10102, table 1
LOPSIDED = (1.8, 300.0, 3e4, 0.25, 0.50)


@dataclass(frozen=True)
class Scenario:
    """A law, a grid of sizes x budgets centred on N*, noise (sd of ln L), share of outliers.

    ``bend`` multiplies L - E by exp(bend ln(N / N*) ln(C / C0)), which no surface of the three-term
    form follows: the curves tilt as C grows, and N* leaves its power law. ``gamma`` is the power of
    L - E over the two terms; ``drift`` adds drift ln(N / N0) to the exponent of D, N0 = N* at the middle
    budget, which is a law of no family offered.
    """

    law: tuple = BESIROGLU
    sizes: int = 15
    budgets: int = 5
    noise: float = 0.005
    outliers: float = 0.0
    bend: float = 0.0
    gamma: float = 1.0
    drift: float = 0.0
    names: tuple = field(default=("surface", "isoflop", "stack"))


SCENARIOS = {
    "base": Scenario(),
    "2% noise": Scenario(noise=0.02),
    "lopsided": Scenario(law=LOPSIDED),
    "128 runs": Scenario(sizes=16, budgets=8),
    "24 runs": Scenario(sizes=6, budgets=4),
    "10% outliers": Scenario(outliers=0.10),
    "misspecified": Scenario(bend=0.015),
    "gamma 0.7": Scenario(gamma=0.7),
    "drifting exponent": Scenario(drift=0.004),
}


def optimum(law, flops):
    """ln N* on C = 6 N D."""
    _, a, b, alpha, beta = law
    return (np.log(alpha * a / (beta * b)) + beta * np.log(flops / 6)) / (alpha + beta)


def true_loss(scenario: Scenario, log_n, flops):
    """Loss at ln N and C."""
    e, a, b, alpha, beta = scenario.law
    away = log_n - optimum(scenario.law, np.sqrt(LOW * HIGH))
    log_d = np.log(flops / 6) - log_n
    exponent = beta + scenario.drift * away
    above = (a * np.exp(-alpha * log_n) + b * np.exp(-exponent * log_d)) ** scenario.gamma
    tilt = (log_n - optimum(scenario.law, flops)) * np.log(flops / LOW)
    return e + above * np.exp(scenario.bend * tilt)


def truth(scenario: Scenario, flops: float) -> tuple[float, float]:
    """ln N* and L* at C, on a fine grid."""
    grid = optimum(scenario.law, flops) + np.linspace(-4, 4, 80_001)
    loss = true_loss(scenario, grid, flops)
    at = int(np.argmin(loss))
    return float(grid[at]), float(loss[at])


@cache
def centre(scenario: Scenario, flops: float) -> float:
    """ln N* at C, around which a sweep is laid out: of the law without its bend."""
    return truth(scenario, flops)[0] if scenario.drift else float(optimum(scenario.law, flops))


def simulate(scenario: Scenario, generator: np.random.Generator) -> pd.DataFrame:
    """One sweep: sizes within 8x of N* at each budget, noise on ln L, outliers upwards."""
    budgets = np.geomspace(LOW, HIGH, scenario.budgets)
    offsets = np.linspace(-np.log(8), np.log(8), scenario.sizes)
    log_n = np.concatenate([centre(scenario, c) + offsets for c in budgets])
    flops = np.repeat(budgets, scenario.sizes)
    loss = true_loss(scenario, log_n, flops)
    loss = loss * np.exp(scenario.noise * generator.standard_normal(len(loss)))
    count = int(scenario.outliers * len(loss))
    hit = generator.choice(len(loss), count, replace=False)
    loss[hit] *= np.exp(generator.uniform(0.03, 0.3, count))
    params = np.exp(log_n)
    return pd.DataFrame(
        {
            "params": params,
            "tokens": flops / (6 * params),
            "loss": loss,
            "flops": flops,
            "budget": flops,
        }
    )


def one(scenario: Scenario, generator, resamples: int, target: float, true, stacked: bool) -> dict:
    """Hits, errors and widths of one simulated sweep, per estimator."""
    frame = simulate(scenario, generator)
    runs = Runs(frame, budget_groups(frame)[0], Cost())
    draws = draw(frame, "runs", resamples, generator, runs.groups)
    surface = estimate_surface(runs, draws)
    minima = estimate_isoflop(runs, draws, surface.weight, surface.draw_weight)
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    rows, log_c = {}, np.log(target)
    for name, estimate in (("surface", surface), ("isoflop", minima)):
        if estimate.draws is None:
            continue
        log_n, loss = estimate.draws.optimum(log_c, Cost())
        ends = [np.quantile(v, tails) for v in (estimate.draws.exponent(), log_n, loss)]
        point = [float(estimate.law.exponent()[0])]
        point += [float(v[0]) for v in estimate.law.optimum(log_c, Cost())]
        rows[name] = ends, point
    if stacked:
        rows["stack"] = _stacked(runs, surface, draws, target)
    found = {
        name: [
            [bool(low <= t <= high), p - t, float(high - low)]
            for (low, high), p, t in zip(ends, point, true, strict=True)
        ]
        for name, (ends, point) in rows.items()
    }
    found["gap"] = abs(rows["surface"][1][1] - rows.get("isoflop", rows["surface"])[1][1])
    return found


def _stacked(runs: Runs, surface, draws, target: float):
    """The stack's interval of a (noise), and of ln N* and L* as `predict` gives them."""
    stack = build(runs, surface.weight, draws, surface.draw_weight)
    log_c = np.log(target)
    log_n, loss = (float(v[0]) for v in stack.law.optimum(log_c, Cost()))
    sd, away = spread_of_draws(stack.draws, log_c, Cost()), np.log(target / HIGH)
    half = {q: form_error(stack, q).half_width(sd[q], away, LEVEL) for q in QUANTITIES}
    a, half_a = float(stack.law.exponent()[0]), ndtri((1 + LEVEL) / 2) * stack.draws.exponent_sd()
    ends = [
        (a - half_a, a + half_a),
        (log_n - half["params"], log_n + half["params"]),
        (loss * np.exp(-half["loss"]), loss * np.exp(half["loss"])),
    ]
    return ends, [a, log_n, loss]


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=600)
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--headline", type=int, default=200)
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    target = BEYOND * HIGH
    print(f"{args.simulations} simulations, {args.resamples} resamples, nominal {LEVEL:.0%}\n")
    print(
        "| scenario | estimator | a | ln N* at 10x | L* at 10x | rmse a | rmse ln N* | rmse L* "
        "| width ln N* | gap | simulations |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    table = {}
    for name in args.scenario:
        scenario, began = SCENARIOS[name], time.process_time()
        log_n, loss = truth(scenario, target)
        steps = [truth(scenario, c)[0] for c in (LOW, HIGH)]
        true = ((steps[1] - steps[0]) / np.log(HIGH / LOW), log_n, loss)
        found = [
            one(
                scenario,
                np.random.default_rng([args.seed, list(SCENARIOS).index(name), i]),
                args.resamples,
                target,
                true,
                i < args.headline,
            )
            for i in range(args.simulations)
        ]
        gap = float(np.mean([f["gap"] for f in found]))
        for estimator in scenario.names:
            values = np.array([f[estimator] for f in found if estimator in f], dtype=float)
            if not len(values):
                continue
            hits = values[:, :, 0].mean(axis=0)
            rmse = np.sqrt((values[:, :, 1] ** 2).mean(axis=0))
            width = float(values[:, 1, 2].mean())
            told = " | ".join(f"{100 * h:.1f}" for h in hits)
            errors = " | ".join(f"{r:.4f}" for r in rmse)
            print(
                f"| {name} | {estimator} | {told} | {errors} | {width:.3f} | {gap:.3f} "
                f"| {len(values)} |",
                flush=True,
            )
            table[f"{name}/{estimator}"] = [round(100 * float(h), 1) for h in hits]
        print(f"<!-- {name}: {time.process_time() - began:.0f} CPU-s -->", flush=True)
    print(json.dumps(table))


if __name__ == "__main__":
    main()
