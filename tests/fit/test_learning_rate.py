"""The learning-rate rule: planted optima come back, edges are flagged, rules load again."""

import json

import numpy as np
import pandas as pd
import pytest

from flops_fit.cli.main import main
from flops_fit.errors import FlopsFitError
from flops_fit.files import write_json
from flops_fit.fit.learning_rate import fit_learning_rate
from flops_fit.plan.planner import rate_origin
from flops_fit.plan.rules import make_rule

RATES = 0.02 * np.array([0.25, 0.5, 1, 2, 4])


def planted(params: float, tokens: float) -> float:
    return 0.02 * (params / 1e4) ** -0.3 * (tokens / 1e6) ** -0.1


def sweep(cells, rates=RATES, optimum=planted, noise=0.0) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    rows = [
        {
            "size": size,
            "params": params,
            "tokens": tokens,
            "budget": 6 * params * tokens,
            "learning_rate": rate,
            "status": "completed",
            "loss": 1.5
            + 0.1 * np.log(rate / optimum(params, tokens)) ** 2
            + noise * generator.standard_normal(),
        }
        for size, params, tokens in cells
        for rate in rates
    ]
    return pd.DataFrame(rows)


CELLS = [(16, 8e3, 5e5), (32, 3e4, 5e5), (64, 1e5, 5e5), (16, 8e3, 4e6), (64, 1e5, 4e6)]


def test_a_planted_rule_comes_back_exactly():
    fit = fit_learning_rate(sweep(CELLS))
    assert fit["params"]["power"] == pytest.approx(-0.3, abs=1e-9)
    assert fit["tokens"]["power"] == pytest.approx(-0.1, abs=1e-9)
    assert fit["scatter"] < 1e-9
    assert all(cell["status"] == "bracketed" for cell in fit["cells"])


def test_cells_of_one_budget_give_a_rule_of_n_alone():
    sizes = {16: 8e3, 24: 1.6e4, 32: 3e4, 48: 6e4, 64: 1e5}
    cells = [(size, n, 1e11 / (6 * n * (1 + 300 / n))) for size, n in sizes.items()]
    fit = fit_learning_rate(sweep(cells, optimum=lambda n, d: 0.02 * (n / 1e4) ** -0.3))
    assert fit["params"]["power"] == pytest.approx(-0.3, abs=1e-9)
    assert "tokens" not in fit
    assert "N and D vary together: the power of tokens is left out" in fit["notes"]


def test_the_written_rule_gives_the_planted_rate_wherever_a_sweep_names_it(tmp_path):
    table, out = tmp_path / "results.csv", tmp_path / "learning_rate.json"
    sweep(CELLS).to_csv(table, index=False)
    summary = tmp_path / "learning_rate.txt"
    assert (
        main(
            [
                "rate",
                "--runs",
                str(table),
                "--out",
                str(out),
                "--out-dir",
                str(tmp_path),
                "--summary",
                str(summary),
            ]
        )
        == 0
    )
    assert summary.read_text().startswith(f"{out}: lr = ")
    rule = make_rule("learning_rate", {"file": str(out)})
    assert rule(params=5e4, tokens=2e6, size=48) == pytest.approx(planted(5e4, 2e6), rel=1e-6)
    assert {p.name for p in tmp_path.iterdir()} >= {
        f"learning_rate.{k}" for k in ("svg", "png", "csv")
    }
    assert json.loads(out.read_text())["notes"] == []


def test_a_best_rate_at_the_edge_is_flagged_and_not_used():
    cells = [*CELLS, (8, 2e3, 5e5)]
    fit = fit_learning_rate(sweep(cells, optimum=lambda n, d: 0.5 if n == 2e3 else planted(n, d)))
    assert [c["status"] for c in fit["cells"] if c["size"] == 8] == ["at_edge"]
    assert any(
        note.startswith("size 8, D 5e+05: the best rate 0.08 lies at an edge")
        for note in fit["notes"]
    )
    assert fit["params"]["power"] == pytest.approx(-0.3, abs=1e-9)


def test_a_rule_that_contradicts_a_cell_at_an_edge_says_so_and_so_do_plans_that_name_it(tmp_path):
    steep = [(8, 5e3, 2e5), (16, 1.7e4, 6e5), (24, 6.1e4, 2e5), (32, 2e5, 7e4)]
    fit = fit_learning_rate(sweep(steep, optimum=lambda n, d: 0.03 * (n / 5e3) ** -0.7))
    at_edge = [c for c in fit["cells"] if c["status"] == "at_edge"]
    missed = [note for note in fit["notes"] if "although the best rate is 0.005 or lower" in note]
    assert fit["misses"] == len(missed) == len(at_edge) == 2
    file = tmp_path / "learning_rate.json"
    write_json(file, {"format": 1, **fit})
    origin = rate_origin({"learning_rate": {"file": str(file)}})
    assert "contradicts 2 of the 4 cells of its own sweep" in origin
    agrees = fit_learning_rate(sweep([*CELLS, (8, 2e3, 5e5)], optimum=planted))
    assert agrees["misses"] == 0


def test_a_diverged_rate_bounds_the_range_without_entering_the_fit():
    runs = sweep(CELLS)
    runs.loc[runs["learning_rate"] == RATES[-1], ["loss", "status"]] = [np.nan, "diverged"]
    assert fit_learning_rate(runs)["params"]["power"] == pytest.approx(-0.3, abs=1e-9)


def test_no_bracketed_cell_is_refused_in_words():
    with pytest.raises(FlopsFitError, match="no cell brackets its best rate"):
        fit_learning_rate(sweep(CELLS, optimum=lambda n, d: 10.0))


def test_a_power_that_the_cells_cannot_tell_is_left_out_and_said():
    fit = fit_learning_rate(sweep(CELLS[:3]))
    assert "tokens" not in fit
    assert any("power of tokens is not identifiable" in note for note in fit["notes"])
    assert fit["params"]["power"] == pytest.approx(-0.3, abs=1e-9)


def test_a_table_without_rates_is_named(tmp_path, capsys):
    table = tmp_path / "runs.csv"
    pd.DataFrame({"size": [1], "params": [1]}).to_csv(table, index=False)
    assert main(["rate", "--runs", str(table), "--out", str(tmp_path / "x.json")]) == 2
    assert "no column 'tokens'" in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()
