"""Error of a on simulated noisy sweeps: the default fit against delta = 1e-3 and least squares.

    python benchmarks/accuracy.py [--repetitions 25]

Four laws x four grids (centred, wide, off-centre, drifting) of 15 sizes x 5 budgets, noise on ln L
of 0.5% and 2%, with and without 10% of the runs raised by 3 to 35%. All three fits see the same
runs. The last line is one JSON object with the ratios of root mean square errors.
"""

import argparse
import json
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from flops_fit.fit.surface import Data, fit_surface

LAWS = (
    (1.8172, 482.0, 2085.4, 0.3478, 0.3658),  # Besiroglu et al. 2024
    (1.69, 406.4, 410.7, 0.34, 0.28),  # Hoffmann et al. 2022
    (1.8, 300.0, 3e4, 0.25, 0.50),
    (2.0, 2000.0, 800.0, 0.45, 0.30),
)
GRIDS = (
    (8.0, 0.0, 0.0),
    (30.0, 0.0, 0.0),
    (8.0, 1.0, 0.0),
    (8.0, 0.0, 1.5),
)  # width, offset, drift
FITS = {
    "default": {},
    "delta 1e-3": {"delta": 1e-3, "exclude": "none"},
    "least squares": {"delta": 1e3, "exclude": "none"},
}


def sweep(law, grid):
    """N, D and loss without noise."""
    e, a, b, alpha, beta = law
    width, offset, drift = grid
    budgets, sizes = np.geomspace(1e18, 1e21, 5), 15
    centre = (np.log(alpha * a / (beta * b)) + beta * np.log(budgets / 6)) / (alpha + beta)
    centre += offset + drift * np.linspace(-0.5, 0.5, 5)
    log_n = (centre[:, None] + np.linspace(-np.log(width), np.log(width), sizes)).ravel()
    params = np.exp(log_n)
    tokens = np.repeat(budgets, sizes) / (6 * params)
    return params, tokens, e + a * params**-alpha + b * tokens**-beta


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=25, help="per law and grid")
    args = parser.parse_args()
    print("| outliers | noise | fits | rmse default | delta 1e-3 | least squares | / 1e-3 | / LS |")
    print("|---|---|---|---|---|---|---|---|")
    ratios = {}
    for outliers in (0.0, 0.1):
        for noise in (0.005, 0.02):
            errors = {name: [] for name in FITS}
            for i, law in enumerate(LAWS):
                for j, grid in enumerate(GRIDS):
                    params, tokens, exact = sweep(law, grid)
                    for k in range(args.repetitions):
                        generator = np.random.default_rng([i, j, k])
                        loss = exact * np.exp(noise * generator.standard_normal(len(exact)))
                        count = int(outliers * len(loss))
                        hit = generator.choice(len(loss), count, replace=False)
                        loss[hit] *= np.exp(generator.uniform(0.03, 0.3, count))
                        data = Data.of(params, tokens, loss)
                        for name, settings in FITS.items():
                            alpha, beta = fit_surface(data, **settings).theta[3:]
                            errors[name].append(beta / (alpha + beta) - law[4] / (law[3] + law[4]))
            rmse = {name: float(np.sqrt(np.mean(np.square(e)))) for name, e in errors.items()}
            default, narrow, squares = rmse.values()
            ratios[f"{outliers:g}/{noise:g}"] = [default / narrow, default / squares]
            print(
                f"| {outliers:.0%} | {noise:.1%} | {len(errors['default'])} | {default:.5f} | "
                f"{narrow:.5f} | {squares:.5f} | {default / narrow:.3f} | {default / squares:.3f} |",
                flush=True,
            )
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
