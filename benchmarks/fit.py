"""Time the bootstrap of the surface against a plain scipy BFGS refit per resample.

    python benchmarks/fit.py [RUNS.csv] [--resamples 4000] [--compare 4000]

The recipe timed against is that of Besiroglu et al. 2024 (arXiv 2404.10102): parameters
(ln A, ln B, ln E, alpha, beta) on raw ln N and ln D, the Huber loss with delta = 1e-3 summed, one
BFGS start per resample at the published Hoffmann values, scipy's defaults. It is timed twice: with
the gradient by finite differences, scipy's default, and with an analytic gradient (theirs came from
automatic differentiation). Both refits see the same resamples, and the two objectives are compared
on each one. Without RUNS.csv the runs come from the folder FLOPS_FIT_PUBLISHED_RUNS, or else are
simulated. The last line is one JSON object.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.optimize import minimize

from flops_fit.fit.bootstrap import draw
from flops_fit.fit.estimators import refit_surface
from flops_fit.fit.runs import RunTable, prepare_runs, read_runs
from flops_fit.fit.surface import HOFFMANN_DELTA, Data, fit_surface

HOFFMANN = np.array([np.log(406.4), np.log(410.7), np.log(1.69), 0.34, 0.28])


def runs_to_time(path: str | None) -> RunTable:
    """The table named, the published one, or 240 simulated runs."""
    folder = os.environ.get("FLOPS_FIT_PUBLISHED_RUNS")
    if path or folder:
        return read_runs(path or Path(folder) / "hoffmann_epoch.csv")
    import pandas as pd

    generator = np.random.default_rng(0)
    params = np.exp(generator.uniform(np.log(5e7), np.log(1e10), 240))
    tokens = params * np.exp(generator.normal(3, 1, 240))
    loss = 1.82 + 482 * params**-0.348 + 2085 * tokens**-0.366
    loss *= np.exp(generator.standard_t(3, 240) * 0.004)
    return prepare_runs(pd.DataFrame({"params": params, "tokens": tokens, "loss": loss}))


def bfgs_objective(theta, log_n, log_d, log_loss):
    """Sum of Huber, and its gradient."""
    a, b, e, alpha, beta = theta
    term_a, term_b = np.exp(a - alpha * log_n), np.exp(b - beta * log_d)
    total = term_a + term_b + np.exp(e)
    r = log_loss - np.log(total)
    u = np.clip(r, -HOFFMANN_DELTA, HOFFMANN_DELTA)
    v = u / total
    gradient = -np.array(
        [
            v @ term_a,
            v @ term_b,
            v.sum() * np.exp(e),
            -(v @ (term_a * log_n)),
            -(v @ (term_b * log_d)),
        ]
    )
    return (u * (r - u / 2)).sum(), gradient


def bfgs(logs, counts, analytic):
    """Objectives of one BFGS run per resample, and the CPU seconds they took."""
    began, values = time.process_time(), []
    for weight in counts:
        rows = np.repeat(np.arange(len(weight)), weight.astype(int))
        data = tuple(v[rows] for v in logs)
        if analytic:
            found = minimize(bfgs_objective, HOFFMANN, args=data, jac=True, method="BFGS")
        else:
            found = minimize(lambda t, d=data: bfgs_objective(t, *d)[0], HOFFMANN, method="BFGS")
        values.append(found.fun)
    return np.array(values), time.process_time() - began


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="?", help="CSV of runs")
    parser.add_argument("--resamples", type=int, default=4000)
    parser.add_argument("--compare", type=int, help="resamples refitted by BFGS; default all")
    args = parser.parse_args()
    table = runs_to_time(args.runs)
    frame = table.frame
    columns = [frame[c].to_numpy() for c in ("params", "tokens", "loss")]
    logs = [np.log(c) for c in columns]
    draws = draw(frame, "runs", args.resamples, np.random.default_rng(1))

    began = time.process_time()
    data = Data.of(*columns)
    fit = fit_surface(data, delta=HOFFMANN_DELTA, exclude="none")
    refit = refit_surface(data, fit, draws, auto_delta=False, auto_exclude=False)
    ours = time.process_time() - began
    r = data.log_loss - data.design.log_surface(refit.theta)
    u = np.clip(r, -HOFFMANN_DELTA, HOFFMANN_DELTA)
    objective = (draws.weight * u * (r - u / 2)).sum(axis=1)
    print(f"{len(frame)} runs, {args.resamples} resamples: {ours:.2f} CPU-s, one fit included")

    count = min(args.compare or args.resamples, args.resamples)
    result = {"runs": len(frame), "resamples": args.resamples, "compared": count}
    excess = []
    for name, analytic in (("finite differences", False), ("analytic gradient", True)):
        values, seconds = bfgs(logs, draws.weight[:count], analytic)
        seconds *= args.resamples / count
        excess.append(objective[:count] / values - 1)
        behind = float((values / objective[:count] > 1 + 1e-6).mean())
        print(
            f"BFGS, {name}: {seconds:.1f} CPU-s for {args.resamples} "
            f"({count} run), {seconds / ours:.0f} x ours; worse than ours by more than 1e-6 on "
            f"{100 * behind:.1f}%; ours worse by at most {excess[-1].max():.1e}"
        )
        result["cpu_ratio" if not analytic else "cpu_ratio_analytic_gradient"] = seconds / ours
    result["cpu_seconds"] = ours
    result["max_excess"] = float(np.max(excess))
    result["usable"] = int(refit.usable.sum())
    result["objective"] = fit.objective
    print(json.dumps(result))


if __name__ == "__main__":
    main()
