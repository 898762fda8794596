"""How the loss of a run is predicted outside the D / N of the runs, on published sweeps.

    FLOPS_FIT_PUBLISHED_RUNS=DIR python benchmarks/over_trained.py [--resamples 300]

Of every table the runs of the highest (then of the lowest) D / N are left out, a half, a third and a
fifth of them; the rest is fitted as `flops-fit fit` does and asked for those left out that cost no
more than its most expensive run. Printed: how often the interval of the loss held, by distance in
D / N, where a factor in it counts as 0 to 4 of the same factors in C.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from published import family, tables

import flops_fit.fit.verdict as verdict
from flops_fit.errors import FlopsFitError
from flops_fit.fit import fit_runs
from flops_fit.fit.prediction import losses_at
from flops_fit.fit.runs import RunTable

KEPT = (0.5, 0.67, 0.8)  # shares of the runs
COUNTS = (0.0, 1.0, 2.0, 3.0, 4.0)
FACTORS = [1, 1.5, 2, 3, 5, 10, np.inf]  # D / N over the highest of the runs fitted
SAME_C = 1.05


def left_out(name: str, table: RunTable, resamples: int) -> list[dict]:
    """One row for each run left out and each of `COUNTS`."""
    fitted = fit_runs(table, bootstrap=0, sensitivity=False).excluded.runs
    gone = {run.experiment_id for run in fitted}
    frame = table.frame[~table.frame["experiment_id"].isin(gone)].reset_index(drop=True)
    log_ratio = np.log(frame["tokens"] / frame["params"]).to_numpy()
    rows = []
    for side, label in ((1, "above"), (-1, "below")):
        for share in KEPT:
            kept = side * log_ratio <= np.quantile(side * log_ratio, share) + 1e-9
            part = RunTable(frame[kept].reset_index(drop=True), name, table.left_out, table.sizes)
            try:
                fit = fit_runs(part, bootstrap=resamples, sensitivity=False)
            except FlopsFitError:
                continue
            if not fit.identified:
                continue
            asked = frame[~kept & (frame["flops"] <= SAME_C * frame["flops"][kept].max())]
            away = np.exp(
                side * np.log(asked["tokens"] / asked["params"]) - (side * log_ratio[kept]).max()
            )
            for counts in COUNTS:
                verdict.RATIO_COUNTS = counts
                at = losses_at(fit, asked["params"].to_numpy(), asked["tokens"].to_numpy())
                held = np.abs(np.log(asked["loss"] / at["loss"])) <= np.log(
                    at["loss_high"] / at["loss"]
                )
                rows += [
                    {
                        "family": family(name),
                        "side": label,
                        "counts": counts,
                        "factor": f,
                        "held": h,
                    }
                    for f, h in zip(away, held, strict=True)
                ]
    return rows


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resamples", type=int, default=300)
    args = parser.parse_args()
    rows = []
    for name, table in tables(Path(os.environ["FLOPS_FIT_PUBLISHED_RUNS"])).items():
        rows += left_out(name, table, args.resamples)
    frame = pd.DataFrame(rows)
    frame["up to"] = pd.cut(frame["factor"], FACTORS, labels=[f"{f:g}x" for f in FACTORS[1:]])
    for by in ("up to", "family"):
        held = frame.groupby(["side", "counts", by], observed=True)["held"]
        print((100 * held.mean()).unstack().round(0).to_string(), "\n")
    print(frame[frame["counts"] == 0].groupby(["side", "up to"], observed=True).size().unstack())


if __name__ == "__main__":
    main()
