"""What a sweep can be expected to answer, played on laws whose answer is known exactly."""

import json

import numpy as np
import pandas as pd
import pytest

from flops_fit.cli.main import main
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.plan import Plan
from flops_fit.fit import fit_runs, prepare_runs, read_runs
from flops_fit.fit.cost import Cost
from flops_fit.rounds.describe import describe_simulation
from flops_fit.rounds.simulate import design_of, losses_of, simulate
from flops_fit.rounds.truth import BESIROGLU, Truth, law_of, truth_for

LOW, BUDGETS = 1e18, 4
TARGET = 1e21


def optimum(flops: float) -> float:
    """ln N* of BESIROGLU on C = 6 N D."""
    _, a, b, alpha, beta = BESIROGLU
    return (np.log(alpha * a / (beta * b)) + beta * np.log(flops / 6)) / (alpha + beta)


def grid(budgets: int = BUDGETS, sizes: int = 6, shift: dict | None = None) -> pd.DataFrame:
    """Sizes within 6x of N* at budgets a factor 3 apart; ``shift`` moves a window in ln N."""
    rows = []
    for k in range(budgets):
        flops = LOW * 3**k
        centre = optimum(flops) + (shift or {}).get(k, 0.0)
        for i, offset in enumerate(np.linspace(-np.log(6), np.log(6), sizes)):
            n = float(np.exp(centre + offset))
            rows.append(
                {
                    "experiment_id": f"{k}-{i}",
                    "budget": flops,
                    "size": 10 * k + i,
                    "seed": 0,
                    "params": n,
                    "params_nonembedding": n,
                    "params_total": n,
                    "flops_per_token": 6 * n,
                    "tokens": flops / (6 * n),
                    "flops": flops,
                }
            )
    return pd.DataFrame(rows)


def truth(noise: float, relative: bool = True) -> Truth:
    return Truth(law_of(*BESIROGLU), "published", noise, relative, "given")


def plan_file(tmp_path, design: pd.DataFrame):
    rows = [
        {
            "experiment_id": r.experiment_id,
            "compute_budget": r.budget,
            "size_param_value": r.size,
            "seed": r.seed,
            "num_tokens": r.tokens,
            "num_params": r.params,
            "params": r.params,
            "params_nonembedding": r.params,
            "params_total": r.params,
            "flops_per_token": r.flops_per_token,
            "hash": "0",
            "batch_items": 1,
            "steps": 1000,
            "tokens_per_item": 1,
            "learning_rate": 0.01,
            "activation_bytes": 1.0,
            "flops_counted": r.flops,
            "flops_6nd": r.flops,
        }
        for r in design.itertuples()
    ]
    path = tmp_path / "plan.json"
    plan = {
        "experiments": rows,
        "skipped": [],
        "warnings": [],
        "convention": "counted",
        "fingerprint": "f" * 64,
        "schedule": {},
        "precision": "no",
        "resources": {},
        "data_dir": None,
        "check": "nowhere.json",
    }
    path.write_text(json.dumps(plan))
    return path


def test_without_noise_the_surface_answers_exactly():
    told = simulate(grid(), truth(0.0), flops=TARGET, times=2, resamples=20, fits=0)
    found = told["estimators"]["surface"]
    for key in ("a", "params", "loss"):
        assert abs(found[key]["bias"]) < 1e-6
        assert found[key]["width"] < 1e-5
    assert told["target"]["params"] == pytest.approx(np.exp(optimum(TARGET)), rel=1e-9)
    assert told["all_bracketed"] == 1


def test_without_noise_the_minima_show_the_bias_of_a_parabola_alone():
    told = simulate(grid(), truth(0.0), flops=TARGET, times=2, resamples=20, fits=0)
    found = told["estimators"]["isoflop"]["params"]
    vertices = [abs(m["bias"]) for m in told["minima"]]
    assert found["spread"] == 0
    assert 1e-3 < max(vertices) < 0.05  # Chinchilla's exponents differ by 5%
    assert abs(found["bias"]) > 1e-3


def test_a_window_beside_the_minimum_is_never_bracketed():
    told = simulate(
        grid(shift={1: 2.5}), truth(0.002), flops=TARGET, times=20, resamples=20, fits=0
    )
    shares = [m["bracketed"] for m in told["minima"]]
    assert shares[1] == 0
    assert min(shares[0], shares[2], shares[3]) == 1
    assert told["all_bracketed"] == 0


def test_twice_the_noise_doubles_intervals_and_spread():
    quiet, loud = (
        simulate(grid(), truth(sd), flops=TARGET, times=20, resamples=50, fits=0)["estimators"]
        for sd in (0.001, 0.002)
    )
    for part in ("width", "spread"):
        ratio = loud["surface"]["a"][part] / quiet["surface"]["a"][part]
        assert ratio == pytest.approx(2, rel=0.1)


def test_a_run_has_the_same_luck_in_every_design():
    full, half = grid(), grid().iloc[::2]
    losses = losses_of(full, truth(0.01), 5)
    assert (losses_of(half, truth(0.01), 5) == losses[:, ::2]).all()
    assert (losses_of(full, truth(0.01), 5, seed=1) != losses).all()


def test_noise_in_nats_and_as_a_share_have_the_stated_sd():
    design = grid()
    smooth = losses_of(design, truth(0.0), 1)
    share = np.log(losses_of(design, truth(0.01), 400) / smooth) / 0.01
    nats = (losses_of(design, truth(0.01, relative=False), 400) - smooth) / 0.01
    assert np.abs(share - nats).max() < 1e-9
    assert share.std() == pytest.approx(1, rel=0.03)
    assert abs(share.mean()) < 0.03


def test_too_small_a_grid_is_told_before_it_is_paid_for():
    told = simulate(
        grid(budgets=2, sizes=4), truth(0.01), flops=TARGET, times=6, resamples=30, fits=2
    )
    assert told["estimators"]["surface"]["usable"] < 0.6
    assert told["whole_fits"]["verdicts"].get("trust", 0) < 0.3
    with pytest.raises(FlopsFitError, match="4 runs"):
        simulate(grid(budgets=1, sizes=4), truth(0.01))


def test_the_default_law_suits_the_scale_of_the_plan():
    large = truth_for(grid())
    assert large.law.values[0] == pytest.approx(law_of(*BESIROGLU).values[0])
    assert "Besiroglu" in large.source
    small = grid()
    shrunk = {
        "params": 1e-4,
        "tokens": 1e-4,
        "flops": 1e-8,
        "budget": 1e-8,
        "flops_per_token": 1e-4,
    }
    for name, factor in shrunk.items():
        small[name] *= factor
    found = truth_for(small)
    middle = np.sqrt(small["flops"].min() * small["flops"].max())
    log_n, loss = (v[0] for v in found.law.optimum(np.log(middle), Cost()))
    assert middle / 6 / np.exp(2 * log_n) == pytest.approx(20, rel=0.02)
    assert loss == pytest.approx(2, rel=1e-3)  # half of it above E = 1
    assert "tokens per parameter are best" in found.source


def test_a_fit_lends_its_surface_and_its_scatter():
    design = grid(sizes=8)
    fit = fit_runs(
        prepare_runs(design.assign(loss=losses_of(design, truth(0.01), 1)[0])), bootstrap=0
    )
    found = truth_for(design, fit=fit)
    assert found.law.exponent()[0] == pytest.approx(fit.parametric.a)
    assert found.noise == pytest.approx(0.01, rel=0.35)
    assert truth_for(design, fit=fit, noise=(0.5, False)).noise == 0.5


def refits_agree(times: int, resamples: int, tmp_path) -> None:
    """Predicted widths against those of fits of the same runs, read from files as a user's are."""
    design = grid()
    told = simulate(design, truth(0.005), flops=TARGET, times=times, resamples=resamples, fits=0)
    widths = {"surface": [], "isoflop": []}
    for k, loss in enumerate(losses_of(design, truth(0.005), times)):
        path = tmp_path / f"{k}.csv"
        design.assign(loss=loss).to_csv(path, index=False)
        fit = fit_runs(read_runs(path), sensitivity=False)
        for name in widths:
            draws = fit.laws[name].draws
            log_n, lowest = draws.optimum(np.log(TARGET), fit.cost)
            ends = [np.quantile(v, [0.05, 0.95]) for v in (draws.exponent(), log_n, lowest)]
            widths[name].append([high - low for low, high in ends])
    for name, found in widths.items():
        predicted = [told["estimators"][name][key]["width"] for key in ("a", "params", "loss")]
        assert predicted == pytest.approx(np.mean(found, axis=0), rel=0.10), name


def test_predicted_intervals_are_those_of_real_fits(tmp_path):
    refits_agree(3, 200, tmp_path)


@pytest.mark.slow
def test_predicted_intervals_are_those_of_two_hundred_real_fits(tmp_path):
    refits_agree(200, 200, tmp_path)


def test_the_command_prints_a_table_and_json(tmp_path, capsys):
    path = plan_file(tmp_path, grid())
    few = ["--times", "3", "--resamples", "20", "--fits", "1"]
    assert main(["simulate", "--plan", str(path), *few, "--noise", "0.5%", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["noise"] == {"sd": 0.005, "unit": "share of the loss", "source": "given"}
    assert told["target"]["flops"] == pytest.approx(10 * LOW * 3 ** (BUDGETS - 1))
    assert sum(told["whole_fits"]["verdicts"].values()) == pytest.approx(1)
    assert (
        main(
            [
                "simulate",
                "--plan",
                str(path),
                *few,
                "--law",
                "1.8",
                "480",
                "2085",
                "0.35",
                "0.37",
                "--noise",
                "0.01",
            ]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert "the given law" in text
    assert "0.01 nats" in text
    assert "expected verdict" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--noise", "loud"], "--noise: 'loud'"),
        (["--law", "1", "-2", "3", "0.3", "0.3"], "law: A = -2.0"),
        (["--flops", "-1"], "flops: -1.0"),
        (["--times", "1"], "times: 1"),
    ],
)
def test_bad_settings_are_refused_by_name(tmp_path, capsys, arguments, words):
    path = plan_file(tmp_path, grid())
    assert main(["simulate", "--plan", str(path), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_the_design_reads_n_as_the_fit_does(tmp_path):
    path = plan_file(tmp_path, grid())
    value = json.loads(path.read_text())
    for row in value["experiments"]:
        row["params_total"] = 2 * row["params"]
    plan = Plan.from_dict(value)
    assert (design_of(plan, "params_total")["params"] == 2 * design_of(plan)["params"]).all()


def test_the_table_names_what_was_never_identified():
    told = simulate(grid(), truth(0.005), flops=TARGET, times=2, resamples=20, fits=0)
    told["estimators"]["isoflop"] = {"usable": 0.0}
    assert "isoflop    never identified" in describe_simulation(told)
