"""The forecast: nearer runs weigh more only where that has paid inside the data."""

import numpy as np
import pytest
from simulated import LAWS, loss_of, sweep

from flops_fit.fit import fit_runs, loss_at


@pytest.mark.parametrize(
    ("share", "most", "plain"), [(0.1, 0.58, 0.84), (0.2, 0.70, 0.86), (0.3, 0.52, 0.95)]
)
def test_dearest_published_runs_are_forecast(published, share, most, plain):
    frame = published.frame.sort_values("flops")
    cut = round(len(frame) * (1 - share))
    known, ahead = frame.iloc[:cut], frame.iloc[cut:]
    fit = fit_runs(known, delta=1e-3, bootstrap=0)

    def error(which):
        predicted = loss_at(fit, ahead["params"], ahead["tokens"], which)
        return 100 * np.median(np.abs(predicted / ahead["loss"] - 1))

    assert error("forecast") <= most
    assert error("parametric") == pytest.approx(plain, abs=0.01)
    assert fit["forecast"]["folds"] == 10


def test_an_exact_surface_is_forecast_exactly():
    law = LAWS["besiroglu"]
    fit = fit_runs(sweep(law), bootstrap=0)
    params, tokens = np.array([1e10, 3e10]), np.array([1e11, 3e11])
    assert loss_at(fit, params, tokens, "forecast") == pytest.approx(
        loss_of(law, params, tokens), rel=1e-9
    )


@pytest.mark.seconds
def test_kappa_is_small_where_the_surface_is_the_truth():
    kappas = [
        fit_runs(sweep(LAWS["besiroglu"], noise=0.01, seed=s), bootstrap=0)["forecast"]["kappa"]
        for s in range(8)
    ]
    assert np.median(kappas) <= 0.5


def test_kappa_grows_where_the_surface_bends():
    frame = sweep(LAWS["besiroglu"], sizes=12, budgets=8, low=1e17, high=1e22, noise=0.002)
    frame["loss"] *= 1 + 0.02 * np.log10(frame["flops"] / 1e17) ** 2 / 10
    fit = fit_runs(frame, bootstrap=0)
    assert fit["forecast"]["kappa"] >= 1
    assert min(fit["forecast"]["errors"]) < fit["forecast"]["errors"][0]


def test_the_forecast_takes_no_part_in_the_answer():
    frame = sweep(LAWS["besiroglu"], noise=0.01)
    fit = fit_runs(frame, bootstrap=0)
    assert fit["laws"]["surface"]["law"]["values"][0][0] == fit["parametric"]["E"]
