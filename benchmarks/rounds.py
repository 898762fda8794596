"""Rounds that choose their runs, on pools of runs that are trained already.

    FLOPS_FIT_PUBLISHED_RUNS=FOLDER python benchmarks/rounds.py [--share 0.25] [--seeds 3]

Every published table, and simulated sweeps with known laws, lose their largest budget; the rest is a
pool from which runs are taken in rounds, as `flops-fit sweep` takes them, until ``--share`` of its
FLOPs is spent. Beside that choice: random, cheapest first, and D-optimal (the largest growth of the
determinant of the information on the parameters, per FLOP), from the same first grid. At the end all
runs taken are fitted as `flops-fit fit` does, and asked for the budget left out: the error is the
excess of the loss at the predicted N* plus the error of L*, both relative, against a local curve
through the runs there (for simulated sweeps: the law itself). The last line is one JSON object.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.fit import fit_runs, read_runs
from flops_fit.fit.calibrate import prior
from flops_fit.fit.cost import Cost, cost_of
from flops_fit.fit.form_error import growth
from flops_fit.fit.laws import SurfaceLaw
from flops_fit.fit.measure import measure
from flops_fit.fit.runs import RunTable, budget_groups, prepare_runs
from flops_fit.rounds.choice import PRIOR_SD, Belief, Cells, Scores, choose, first_grid, next_round
from flops_fit.rounds.truth import BESIROGLU, default_law, law_of, law_of_fit

BOTH = {"params": 0.5, "loss": 0.5}


@dataclass(frozen=True)
class Pool:
    """Runs to choose from (``table``), and ``error`` of a (ln N*, L*) at ``flops``, the budget asked."""

    name: str
    table: RunTable
    flops: float
    error: Callable[[float, float], float]

    @property
    def cells(self) -> Cells:
        frame = self.table.frame
        return Cells(
            _nominal(frame),
            np.log(frame["params"].to_numpy()),
            np.log(frame["tokens"].to_numpy()),
            frame["flops"].to_numpy(),
            frame["flops"].to_numpy(),
            np.full(len(frame), ""),
            np.zeros(len(frame)),
            np.zeros(len(frame)),
            np.zeros(len(frame), dtype=int),
        )


def _nominal(frame: pd.DataFrame) -> np.ndarray:
    """The budget of each run; runs outside all shared budgets have their own FLOPs."""
    budget = frame["flops"].to_numpy().copy()
    for c, rows in budget_groups(frame)[0]:
        budget[rows] = c
    return budget


def published(folder: Path) -> list[Pool]:
    """Every table with shared budgets, its largest budget that shows a minimum left out."""
    pools = []
    for path in sorted(folder.rglob("*.csv")):
        if not set(pd.read_csv(path, nrows=0).columns) >= {"params", "tokens", "flops", "loss"}:
            continue
        table = read_runs(path)
        frame = table.frame
        groups = budget_groups(frame)[0]
        columns = [np.log(frame[c].to_numpy()) for c in ("params", "loss", "flops")]
        minima = measure(*columns, groups, np.ones(len(frame)))
        known = [k for k, minimum in enumerate(minima) if minimum is not None and k >= 4]
        if not known:
            continue
        minimum, rows = minima[known[-1]], np.concatenate([g[1] for g in groups[: known[-1]]])

        def error(log_n: float, loss: float, minimum=minimum) -> float:
            return max(minimum.excess(log_n), 0.0) + abs(np.log(loss) - minimum.log_loss)

        part = frame.iloc[np.sort(rows)].reset_index(drop=True)
        pools.append(Pool(path.stem, RunTable(part, path.stem), minimum.flops, error))
    return pools


LAWS = {"besiroglu": law_of(*BESIROGLU), "lopsided": law_of(0.5, 20.0, 3000.0, 0.15, 0.45)}
NOISE = 0.004  # of ln L between simulated runs
COST = Cost()


def simulated(seeds: int) -> list[Pool]:
    """Sweeps of six budgets a factor of three apart, nine sizes each, and a seventh budget asked.

    Each with the law itself, and drifting: ln N* and ln L* off the law by the error of the form that
    published sweeps have on average, tau g(d) at the distance d from the budget asked.
    """
    pools = []
    for name, law in LAWS.items():
        for drift in (0.0, 1.0):
            for seed in range(seeds):
                label = f"{'drifting ' if drift else ''}{name} {seed}"
                pools.append(_simulated(label, law, drift, seed))
    return pools


def _simulated(name: str, law: SurfaceLaw, drift: float, seed: int) -> Pool:
    generator, parts, asked = np.random.default_rng(seed), [], np.log(1e18 * 3.0**6)
    signs = drift * generator.choice([-1.0, 1.0], size=2)
    for c in 1e18 * 3.0 ** np.arange(6):
        away = float(growth(asked - np.log(c)) - growth(0.0))
        shift, rise = (
            s * prior()[q] * away for s, q in zip(signs, ("params", "loss"), strict=True)
        )
        log_n = law.optimum(np.log(c), COST)[0] + np.linspace(-2.2, 2.2, 9)
        log_d = np.log(c / 6) - log_n
        loss = law.off_optimum(log_n[:, None] - shift, np.log(c), COST)[:, 0]
        loss = loss * np.exp(rise + NOISE * generator.normal(size=9))
        columns = {"params": np.exp(log_n), "tokens": np.exp(log_d), "loss": loss}
        parts.append(pd.DataFrame(columns | {"flops": c, "budget": c}))

    def error(log_n: float, loss: float) -> float:
        best = law.optimum(asked, COST)[1][0]
        here = law.off_optimum(np.array([log_n]), asked, COST)[0]
        return float(here / best - 1 + abs(np.log(loss / best)))

    return Pool(
        name, prepare_runs(pd.concat(parts, ignore_index=True)), float(np.exp(asked)), error
    )


def belief_of(pool: Pool, have: np.ndarray) -> Belief:
    """The surface of the runs taken so far, and the error of the form of other sweeps."""
    part = pool.table.frame[have].reset_index(drop=True)
    cost = cost_of(pool.table.frame, pool.table.sizes)[0]
    try:
        fit = fit_runs(RunTable(part, pool.name), method="surface", bootstrap=0, sensitivity=False)
        law, _, noise = law_of_fit(fit)
    except FlopsFitError:
        law, _, noise = default_law(part)
    return Belief.of(law, noise, cost)


def ours(pool: Pool, have: np.ndarray, most: float) -> np.ndarray:
    """A round as `flops-fit sweep` chooses it."""
    scores = Scores(pool.cells, belief_of(pool, have), float(np.log(pool.flops)), BOTH)
    return next_round(pool.cells, have, choose(scores, have, most))


def d_optimal(pool: Pool, have: np.ndarray, most: float) -> np.ndarray:
    """A round by the determinant of the information on the five parameters, per FLOP."""
    cells = pool.cells
    rows = Scores(cells, belief_of(pool, have), float(np.log(pool.flops)), BOTH).rows[:, :5]
    chosen, begin = have.copy(), cells.total(have)
    while cells.total(chosen) < 2 * begin:
        known = rows[chosen]
        covariance = np.linalg.inv(np.diag(PRIOR_SD**-2.0) + known.T @ known)
        gain = np.log1p(np.einsum("ni,ij,nj->n", rows, covariance, rows))
        fits = ~chosen & (cells.total(chosen) + cells.flops <= most)
        if not fits.any():
            break
        chosen[np.argmax(np.where(fits, gain / cells.flops, -1))] = True
    return chosen


def in_order(order: np.ndarray) -> Callable:
    """Take runs in a given order while they can be paid for."""

    def taken(pool: Pool, have: np.ndarray, most: float) -> np.ndarray:
        chosen = have.copy()
        for i in order:
            if not chosen[i] and pool.cells.total(chosen) + pool.cells.flops[i] <= most:
                chosen[i] = True
        return chosen

    return taken


def rounds(pool: Pool, choice: Callable, most: float) -> np.ndarray:
    """The runs taken by ``choice``, round after round, for at most ``most`` FLOPs."""
    cells = pool.cells
    have = first_grid(cells)
    while True:
        chosen = choice(pool, have, most)
        if chosen.sum() == have.sum():
            return have
        have = chosen


def error_of(pool: Pool, have: np.ndarray) -> float:
    """The error of the whole fit of the runs taken; 1 where they do not identify an answer."""
    part = RunTable(pool.table.frame[have].reset_index(drop=True), pool.name, [], pool.table.sizes)
    try:
        fit = fit_runs(part, bootstrap=0, sensitivity=False)
    except FlopsFitError:
        return 1.0
    if not fit.identified:
        return 1.0
    log_n, loss = fit.answering.law.optimum(np.log(pool.flops), fit.cost)
    return pool.error(float(log_n[0]), float(loss[0]))


def main() -> None:
    """Run, print a line for each pool, and the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=0.25, help="of the FLOPs of the pool")
    parser.add_argument("--seeds", type=int, default=3, help="of simulated pools and random choice")
    parser.add_argument("--only", default="", help="pools whose names begin so")
    args = parser.parse_args()
    pools = [*published(Path(os.environ["FLOPS_FIT_PUBLISHED_RUNS"])), *simulated(args.seeds)]
    pools = [pool for pool in pools if pool.name.startswith(args.only)]
    rows, began = [], time.process_time()
    for pool in pools:
        cells, every = pool.cells, np.ones(len(pool.cells.flops), dtype=bool)
        most = args.share * cells.total(every)
        randoms = [
            in_order(np.random.default_rng(seed).permutation(len(every)))
            for seed in range(args.seeds)
        ]
        ways = {"ours": ours, "d-optimal": d_optimal, "cheapest": in_order(np.argsort(cells.flops))}
        row = {"pool": pool.name, "all": error_of(pool, every)}
        for name, way in ways.items():
            have = rounds(pool, way, most)
            row[name] = error_of(pool, have)
            row[f"{name}, share"] = cells.total(have) / cells.total(every)
        row["random"] = float(np.mean([error_of(pool, rounds(pool, way, most)) for way in randoms]))
        rows.append(row)
        print(
            f"{pool.name:36s} {len(every):4d} runs "
            + " ".join(f"{k} {100 * v:.2f}%" for k, v in row.items() if k != "pool")
            + f"  [{time.process_time() - began:.0f} CPU-s]",
            flush=True,
        )
    print(json.dumps(summary(rows)))


def summary(rows: list[dict]) -> dict:
    """Mean and geometric mean of the errors, by choice, over published and over simulated pools."""
    told = {}
    for kind in ("published", "simulated"):
        part = [r for r in rows if (" " in r["pool"]) == (kind == "simulated")]
        for name in ("all", "ours", "d-optimal", "cheapest", "random") if part else ():
            values = np.array([r[name] for r in part])
            told[f"{kind}, {name}"] = {
                "mean": round(float(values.mean()), 5),
                "geometric": round(float(np.exp(np.log(values).mean())), 5),
            }
    return told


if __name__ == "__main__":
    main()
