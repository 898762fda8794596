"""Learning rate, batch and weight decay as one law: planted exponents come back, edges are flagged."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flops_fit.cli.main import main
from flops_fit.errors import FlopsFitError
from flops_fit.fit.joint_rate import fit_jointly, varied
from flops_fit.fit.learning_rate import read_rates
from flops_fit.fit.valley import Tried, valley
from flops_fit.plan.rules import make_rule

CELLS = list(itertools.product((1e7, 4e7, 1.6e8, 6.4e8), (2e8, 2e9, 2e10)))
BEST = {  # value at N = 1e8 and D = 1e9, powers of N and D: Li et al. 2025 (arXiv 2503.04715)
    "learning_rate": (2e-3, -0.713, 0.307),
    "batch_tokens": (8e4, 0.0, 0.571),
    "weight_decay": (0.1, 0.1, -0.4),
}


def best(name: str, params: float, tokens: float) -> float:
    value, p, q = BEST[name]
    return value * (params / 1e8) ** p * (tokens / 1e9) ** q


def table(names=("learning_rate", "batch_tokens"), noise=0.0, off=0.0, seed=0) -> pd.DataFrame:
    """Five values of each around the best of each cell, which is ``off`` the middle (in ln)."""
    generator, steps = np.random.default_rng(seed), np.array([-1.4, -0.7, 0.0, 0.7, 1.4])
    rows = []
    for params, tokens in CELLS:
        shift = off * np.sin(params + tokens)
        for z in itertools.product(steps, repeat=len(names)):
            away = np.array(z) + shift
            bowl = 0.01 * (away @ away) - 0.008 * (away[0] * away[1])
            loss = 3 * np.exp(bowl + noise * generator.standard_normal())
            values = {
                n: best(n, params, tokens) * np.exp(a) for n, a in zip(names, away, strict=True)
            }
            rows.append({"params": params, "tokens": tokens, "loss": loss, **values})
    return pd.DataFrame(rows).assign(size=lambda t: t["params"], status="completed")


@pytest.mark.parametrize("names", [tuple(BEST)[:2], tuple(BEST)])
def test_planted_rules_come_back_exactly_without_noise(names):
    frame = table(names, off=0.3)
    rule = fit_jointly(frame)
    assert varied(frame) == list(names)
    for name in names:
        part = rule if name == "learning_rate" else rule[name]
        assert [part[k]["power"] for k in ("params", "tokens")] == pytest.approx(
            BEST[name][1:], abs=1e-6
        )
        assert make_rule(name, part)(params=3e8, tokens=7e9, size=1) == pytest.approx(
            best(name, 3e8, 7e9), rel=1e-6
        )
    assert all(cell["status"] == "bracketed" for cell in rule["cells"])


@pytest.mark.parametrize("seed", range(3))
def test_planted_exponents_come_back_within_three_hundredths_of_noisy_runs(seed):
    rule = fit_jointly(table(noise=0.001, off=0.3, seed=seed))
    for name, part in (("learning_rate", rule), ("batch_tokens", rule["batch_tokens"])):
        for key, power in zip(("params", "tokens"), BEST[name][1:], strict=True):
            assert part[key]["power"] == pytest.approx(power, abs=0.03)
            low, high = part["interval"][key]
            assert low < part[key]["power"] < high
            assert high - low < 0.12


def test_a_cell_at_the_edge_is_flagged_and_not_used():
    frame = table()
    cell = (frame["params"] == 1e7) & (frame["tokens"] == 2e8)
    large = frame["batch_tokens"] > 1.5 * best("batch_tokens", 1e7, 2e8)
    rule = fit_jointly(frame[~(cell & ~large)])
    (flagged,) = [c for c in rule["cells"] if c["status"] != "bracketed"]
    assert (flagged["params"], flagged["tokens"]) == (1e7, 2e8)
    assert "not used" in rule["notes"][0]
    assert rule["batch_tokens"]["tokens"]["power"] == pytest.approx(0.571, abs=1e-6)
    middle = best("batch_tokens", frame["params"], frame["tokens"])
    with pytest.raises(
        FlopsFitError, match=r"0 of 12 cells bracket their best values; rules need 3"
    ):
        fit_jointly(frame[frame["batch_tokens"] > 0.9 * middle])


STAR = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]


def star(noise=0.0, seed=0) -> pd.DataFrame:
    """Six runs in each cell: the centre, a step along each axis, and one diagonal, which alternates."""
    generator, rows = np.random.default_rng(seed), []
    for number, (params, tokens) in enumerate(CELLS):
        shift = 0.3 * np.sin(params + tokens)
        for z in [*STAR, (1, 1) if number % 2 else (-1, -1)]:
            away = 0.7 * np.array(z) + shift
            bowl = 0.01 * (away @ away) - 0.008 * away[0] * away[1]
            values = {
                n: best(n, params, tokens) * np.exp(a)
                for n, a in zip(("learning_rate", "batch_tokens"), away, strict=True)
            }
            loss = 3 * np.exp(bowl + noise * generator.standard_normal())
            rows.append({"params": params, "tokens": tokens, "loss": loss, **values})
    return pd.DataFrame(rows).assign(size=lambda t: t["params"], status="completed")


def test_cells_with_few_runs_share_their_curvature():
    rule = fit_jointly(star())
    assert all((c["status"], c["runs"]) == ("bracketed", 6) for c in rule["cells"])
    noisy = fit_jointly(star(noise=0.0003))
    for name in ("learning_rate", "batch_tokens"):
        for fitted, error in ((rule, 1e-6), (noisy, 0.03)):
            part = fitted if name == "learning_rate" else fitted[name]
            powers = [part[k]["power"] for k in ("params", "tokens")]
            assert powers == pytest.approx(BEST[name][1:], abs=error)
    frame = star()
    on_axes = frame.groupby(["params", "tokens"]).head(len(STAR))  # no diagonal, no interaction
    with pytest.raises(FlopsFitError, match="0 of 12 cells bracket their best values"):
        fit_jointly(on_axes)


def test_a_cell_beyond_its_star_is_flagged():
    frame = star()
    first = (frame["params"] == 1e7) & (frame["tokens"] == 2e8)
    frame.loc[first, "loss"] *= frame["learning_rate"] ** 0.2  # ever better at smaller rates
    (flagged,) = [c for c in fit_jointly(frame)["cells"] if c["status"] != "bracketed"]
    assert (flagged["status"], flagged["edge"]) == ("at_edge", "learning_rate")


def test_the_minimum_of_a_cubic_is_exact():
    grid = np.array(list(itertools.product(np.linspace(-1, 1, 5), repeat=2)))
    x, y = (grid - [0.2, -0.1]).T
    valley_of = x**2 + y**2 - x * y + 0.3 * x**3 - 0.2 * x * y**2
    cell = Tried(grid, valley_of)
    found = valley(cell, margin=np.inf, cubic=True)
    assert found.at == pytest.approx([0.2, -0.1], abs=1e-9)
    assert found.log_loss == pytest.approx(0, abs=1e-9)
    assert found.hessian == pytest.approx(np.array([[2, -1], [-1, 2]]), abs=1e-7)
    assert abs(valley(cell, margin=np.inf).at[0] - 0.2) > 0.01


def test_an_interval_holds_the_choice_of_window_and_form():
    """Valleys that are steeper above the best rate: a paraboloid's minimum depends on its window."""
    frame = table(off=0.3)
    away = np.log(frame["learning_rate"] / best("learning_rate", frame["params"], frame["tokens"]))
    size = np.log(frame["params"] / 1e8)  # the asymmetry grows with N, and so does the bias
    rule = fit_jointly(frame.assign(loss=frame["loss"] * np.exp(0.0008 * size * away**3)))
    low, high = rule["interval"]["params"]
    assert low < -0.713 < high
    assert high - low > 0.01  # without any noise


def test_the_command_writes_rules_that_a_sweep_can_name(tmp_path, capsys):
    table(off=0.3).to_csv(tmp_path / "runs.csv", index=False)
    words = ["rate", "--runs", str(tmp_path / "runs.csv"), "--out", str(tmp_path / "lr.json")]
    assert main(words) == 0
    assert "note: the batch in tokens = " in capsys.readouterr().out
    out = tmp_path / "batch.json"
    assert main([*words, "--batch-out", str(out), "--out-dir", str(tmp_path)]) == 0
    assert f"wrote {out}: the batch in tokens = " in capsys.readouterr().out
    for name, file in (("learning_rate", "lr.json"), ("batch_tokens", "batch.json")):
        rule = make_rule(name, {"file": str(tmp_path / file)})
        assert rule(params=3e8, tokens=7e9, size=1) == pytest.approx(best(name, 3e8, 7e9), rel=1e-6)
    assert "batch_tokens" not in json.loads((tmp_path / "lr.json").read_text())
    assert (tmp_path / "learning_rate.svg").exists()
    assert main([*words, "--weight-decay-out", "w.json"]) == 2
    assert "no cell with 3 values of weight_decay" in capsys.readouterr().err


def test_the_batch_of_our_own_tables_is_tokens_per_step(tmp_path):
    rows = table().assign(steps=lambda t: 1000.0).drop(columns="batch_tokens")
    rows.to_csv(tmp_path / "results.csv", index=False)
    frame = read_rates(tmp_path / "results.csv")
    assert frame["batch_tokens"].tolist() == (frame["tokens"] / 1000).tolist()


@pytest.mark.skipif(
    "FLOPS_FIT_PUBLISHED_RUNS" not in os.environ, reason="FLOPS_FIT_PUBLISHED_RUNS is not set"
)
def test_the_public_runs_agree_with_the_published_rules():
    """Li et al. 2025; their way, a line through the lowest run of each cell, on the same 17 cells."""
    file = Path(os.environ["FLOPS_FIT_PUBLISHED_RUNS"], "published/steplaw_dense.csv")
    raw = pd.read_csv(file)
    names = {"N": "params", "D": "tokens", "lr": "learning_rate"}
    frame = raw.drop(columns="loss").rename(columns={**names, "smooth loss": "loss"})
    frame = frame.assign(size=raw["N"], status="completed", batch_tokens=2048 * raw["bs"])
    rule = fit_jointly(frame)
    assert [cell["status"] for cell in rule["cells"]] == ["bracketed"] * 17
    lowest = frame.loc[frame.groupby(["params", "tokens"])["loss"].idxmin()]
    logs = np.log(lowest[["params", "tokens"]].to_numpy())
    design = np.column_stack([np.ones(len(logs)), logs])
    draws = np.random.default_rng(0).integers(0, len(logs), (400, len(logs)))
    published = {"learning_rate": (-0.713, 0.307), "batch_tokens": (None, 0.571)}
    for name, powers in published.items():
        y = np.log(lowest[name].to_numpy())
        drawn = [np.linalg.lstsq(design[d], y[d], rcond=None)[0][1:] for d in draws]
        theirs = np.quantile(drawn, [0.05, 0.95], axis=0).T
        part = rule if name == "learning_rate" else rule[name]
        for (low, high), key, power in zip(theirs, ("params", "tokens"), powers, strict=True):
            ours = part["interval"][key]
            assert ours[0] < high
            assert low < ours[1]
            assert power is None or (low < power < high and ours[0] < power < ours[1])
