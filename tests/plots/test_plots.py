"""Figures: the numbers of the fit, the same bytes every time, honest about what is not known."""

import itertools
import subprocess
import sys

import matplotlib
import measured_sweep
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image

from flops_fit.fit import fit_runs, predict, prepare_runs, sensitivity_at
from flops_fit.notation import count_text, flops_text, loss_text, time_text
from flops_fit.plots import FIGURES, ON_REQUEST
from flops_fit.plots.draw import colours_of, draw_all
from flops_fit.plots.hero import hero_numbers, hero_sentence
from flops_fit.plots.isoflop import draw_isoflop, isoflop_numbers
from flops_fit.plots.loss_curves import (
    MOST_CURVES,
    draw_losses,
    drawn_records,
    heldout_numbers,
    loss_curve_numbers,
)
from flops_fit.plots.optima import QUANTITIES, draw_optimum, optima_numbers
from flops_fit.plots.refits import draw_sensitivity, sensitivity_numbers
from flops_fit.plots.regret import regret_numbers
from flops_fit.plots.residuals import residual_numbers
from flops_fit.plots.style import INK, STYLE, BudgetColours, log_axis, save, spread, tick_count
from flops_fit.plots.surface import contour_levels, draw_surface, surface_numbers
from flops_fit.plots.throughput import throughput_numbers
from flops_fit.plots.uncertainty import uncertainty_numbers
from flops_fit.report.page import report_page
from flops_fit.store.collect import run_table

pytestmark = pytest.mark.seconds

BUDGETS = [8.1e11, 2.43e12, 8.1e12]


@pytest.fixture(scope="module")
def records():
    return [*measured_sweep.records(), measured_sweep.diverged(), measured_sweep.failed()]


@pytest.fixture(scope="module")
def table(records):
    return prepare_runs(pd.DataFrame(run_table(records, "counted")))


@pytest.fixture(scope="module")
def fit(table):
    return fit_runs(table, bootstrap=50)


def chinchilla_runs(budgets, sizes=7, noise=0.0, reach=5.0):
    """Runs on a planted surface, centred on its optimum at each budget; columns of a bare table."""
    rng, rows = np.random.default_rng(0), []
    for c in budgets:
        for n in 0.09 * c**0.5 * np.geomspace(1 / reach, reach, sizes):
            d = c / 6 / n
            loss = (1.8 + 480 / n**0.35 + 2100 / d**0.37) * np.exp(noise * rng.standard_normal())
            rows.append({"params": n, "tokens": d, "loss": loss})
    return pd.DataFrame(rows)


def stars(ax):
    """(x, face colour) of the star marks, which stand for minima."""
    found = []
    for collection in ax.collections:
        paths = collection.get_paths()
        if len(paths) == 1 and len(paths[0].vertices) == 11 and collection.get_sizes()[0] > 50:
            found.append((float(collection.get_offsets()[0][0]), collection.get_facecolor()[0]))
    return found


@pytest.fixture(scope="module")
def drawn(table, records, fit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plots")
    draw_all(table, records, fit, BUDGETS, folder, dpi=80, width=5.0)
    return folder


def test_every_figure_is_written_as_svg_png_and_csv_and_nothing_else(drawn):
    expected = {f"{name}.{kind}" for name in FIGURES for kind in ("svg", "png", "csv")}
    assert {path.name for path in drawn.iterdir()} == expected
    assert all(Image.open(drawn / f"{name}.png").width == 400 for name in FIGURES)


def test_the_same_fit_gives_the_same_bytes(drawn, table, records, fit, tmp_path):
    draw_all(table, records, fit, BUDGETS, tmp_path, dpi=80, width=5.0)
    for path in drawn.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_curves_are_drawn_only_over_the_sizes_tried(table, fit):
    numbers = isoflop_numbers(table, fit)
    runs, curves = (numbers[numbers["kind"] == k].groupby("budget") for k in ("run", "curve"))
    assert set(curves.groups) == set(measured_sweep.BUDGETS)
    for budget, curve in curves:
        tried = runs.get_group(budget)["params"]
        assert curve["params"].min() == pytest.approx(tried.min(), rel=1e-12)
        assert curve["params"].max() == pytest.approx(tried.max(), rel=1e-12)


def test_a_curve_passes_through_its_minimum(table, fit):
    numbers = isoflop_numbers(table, fit)
    for entry in fit.isoflop.budgets:
        rows = numbers[numbers["budget"] == entry.flops]
        curve = rows[rows["kind"] == "curve"]
        lowest = curve.loc[curve["loss"].idxmin()]
        assert lowest["loss"] == pytest.approx(entry.loss_opt, abs=1e-3)
        assert lowest["params"] == pytest.approx(entry.params_opt, rel=0.05)


def test_the_near_optimal_band_is_the_5_percent_range_of_predict(table, fit):
    numbers = isoflop_numbers(table, fit)
    for budget in measured_sweep.BUDGETS:
        band = numbers[(numbers["kind"] == "near_optimal") & (numbers["budget"] == budget)]
        low, high = predict(fit, budget).range_5pct
        assert band["params"].min() == pytest.approx(low)
        assert band["params"].max() == pytest.approx(high)


def test_a_minimum_at_the_edge_is_a_hollow_star_and_a_bracketed_one_is_filled():
    runs = [
        r
        for r in measured_sweep.records()
        if r["compute_budget"] != 8.1e11 or r["size_param_value"] >= 64
    ]
    table = prepare_runs(pd.DataFrame(run_table(runs, "counted")))
    fit = fit_runs(table, bootstrap=0)
    assert [b.status for b in fit.isoflop.budgets] == ["bracketed"] * 3 + ["at_edge"]
    ax = Figure().subplots()
    colours = colours_of(table, fit)
    assert draw_isoflop(ax, isoflop_numbers(table, fit), colours, "nats per token") is ax
    found = stars(ax)
    assert [x for x, _ in found] == pytest.approx([b.params_opt for b in fit.isoflop.budgets])
    for (_, face), entry in zip(found, fit.isoflop.budgets, strict=True):
        filled = entry.status == "bracketed"
        assert tuple(face) == pytest.approx(
            tuple(colours(entry.flops)) if filled else to_rgba("white")
        )


def test_the_law_is_solid_inside_the_data_and_dashed_beyond_them(fit, table):
    numbers = optima_numbers(fit, BUDGETS)
    ax = Figure().subplots()
    draw_optimum(ax, numbers, "params", colours_of(table, fit))
    law = [line for line in ax.lines if line.get_color() == INK]
    solid, dashed = law
    assert solid.get_linestyle() == "-"
    assert dashed.get_linestyle() == "--"
    assert max(solid.get_xdata()) == min(dashed.get_xdata()) == 8.1e11
    assert max(dashed.get_xdata()) == pytest.approx(8.1e12)


def test_optima_are_the_answers_of_predict(fit):
    numbers = optima_numbers(fit, BUDGETS)
    for _, row in numbers[numbers["kind"] == "answer"].iterrows():
        answer = predict(fit, row["flops"])
        for quantity in QUANTITIES:
            assert row[quantity] == getattr(answer, quantity)
            ends = [row[f"{quantity}_low"], row[f"{quantity}_high"]]
            assert ends == answer.ci[quantity]


def test_the_csv_beside_a_figure_holds_what_is_drawn(drawn, fit):
    kept = pd.read_csv(drawn / "optima.csv")
    pd.testing.assert_frame_equal(kept, optima_numbers(fit, BUDGETS), check_dtype=False, rtol=1e-7)


def test_a_budget_has_one_colour_in_every_figure(table, records, fit):
    colours = colours_of(table, fit)
    ax = Figure().subplots()
    numbers = loss_curve_numbers(records)
    draw_losses(ax, numbers, heldout_numbers(records), colours)
    ids = list(numbers["experiment_id"].unique())
    line = ax.lines[ids.index(numbers.loc[numbers["budget"] == 9e10, "experiment_id"].iloc[0])]
    surface = Figure().subplots()
    draw_surface(surface, surface_numbers(table, fit, BUDGETS), colours, "nats per token")
    iso = [tuple(li.get_color()) for li in surface.lines if not isinstance(li.get_color(), str)]
    assert tuple(line.get_color()) == tuple(colours(9e10))
    assert tuple(colours(9e10)) in iso


def test_a_diverged_run_is_crossed_and_does_not_stretch_the_axis(table, records, fit):
    ax = Figure().subplots()
    numbers = loss_curve_numbers(records)
    draw_losses(ax, numbers, heldout_numbers(records), colours_of(table, fit))
    worst = numbers.loc[numbers["status"] == "completed", "loss"].max()
    assert ax.get_ylim()[1] == pytest.approx(1.04 * worst)
    crosses = [c for c in ax.collections if len(c.get_offsets()) == 1]
    assert len(crosses) == 1
    last = numbers[numbers["status"] == "diverged"].iloc[-1]
    assert crosses[0].get_offsets()[0][0] == last["tokens"]


def test_a_run_left_out_by_the_fit_is_marked():
    runs = chinchilla_runs(np.geomspace(1e18, 1e20, 4), noise=0.002)
    runs.loc[9, "loss"] *= 1.4
    table = prepare_runs(runs)
    fit = fit_runs(table, bootstrap=0)
    numbers = isoflop_numbers(table, fit)
    excluded = numbers[numbers["status"] == "excluded"]
    assert excluded["experiment_id"].tolist() == ["row 9"]


@pytest.mark.parametrize("ids", [{}, {"run_id": "one id for all"}])
def test_a_bare_table_of_params_tokens_and_loss_gives_every_figure(tmp_path, ids):
    table = prepare_runs(chinchilla_runs(np.geomspace(1e18, 1e20, 4)).assign(**ids))
    fit = fit_runs(table, bootstrap=0)
    draw_all(table, [], fit, [1e21], tmp_path, dpi=50)
    assert len(list(tmp_path.iterdir())) == 3 * len(FIGURES)
    assert pd.read_csv(tmp_path / "loss_curves.csv").empty


@pytest.mark.parametrize("width", [3.3, 6.4])
def test_the_figure_of_a_first_page_says_the_answer_and_holds_curves_and_optima(
    table, fit, tmp_path, width
):
    draw_all(table, [], fit, BUDGETS, tmp_path, 50, width, names=list(ON_REQUEST))
    assert {path.name for path in tmp_path.iterdir()} == {"hero.svg", "hero.png", "hero.csv"}
    sentence = hero_sentence(fit, BUDGETS)
    answers = {c: predict(fit, c) for c in BUDGETS}
    said = max((c for c in BUDGETS if answers[c].verdict == "trust"), default=BUDGETS[-1])
    assert flops_text(said) in sentence
    assert f"about {count_text(answers[said].params)} parameters" in sentence
    assert sentence.endswith(f"({answers[said].verdict}).")
    kinds = set(hero_numbers(table, fit, BUDGETS)["kind"])
    assert {"run", "curve", "minimum", "law", "answer"} <= kinds


def test_the_figure_of_a_first_page_offers_no_number_where_none_is_known(tmp_path):
    table = prepare_runs(chinchilla_runs([1e18, 1e19], sizes=3))
    fit = fit_runs(table, bootstrap=0)
    draw_all(table, [], fit, [1e20], tmp_path, dpi=50, names=["hero"])
    assert (tmp_path / "hero.svg").exists()
    assert hero_sentence(fit, [1e20]) == "These runs do not determine how large a model should be."


def test_runs_without_shared_budgets_are_drawn_with_slices_of_the_surface():
    rng = np.random.default_rng(1)
    runs = pd.DataFrame(
        {"params": 10 ** rng.uniform(7, 9, 60), "tokens": 10 ** rng.uniform(9, 11, 60)}
    )
    runs["loss"] = 1.8 + 480 / runs["params"] ** 0.35 + 2100 / runs["tokens"] ** 0.37
    table = prepare_runs(runs)
    fit = fit_runs(table, bootstrap=0)
    numbers = isoflop_numbers(table, fit)
    kinds = set(numbers["kind"])
    assert "slice" in kinds
    assert not kinds & {"curve", "minimum", "near_optimal"}
    part = numbers[numbers["kind"] == "slice"]
    expected = 1.8 + 480 / part["params"] ** 0.35 + 2100 / part["tokens"] ** 0.37
    assert part["loss"].to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-6)
    ax = Figure().subplots()
    draw_isoflop(ax, numbers, colours_of(table, fit), "nats per token")
    assert len(ax.figure.axes) == 2  # a colour bar instead of labels


def test_what_cannot_be_identified_is_said_instead_of_drawn(tmp_path):
    table = prepare_runs(chinchilla_runs([1e18, 1e19], sizes=3))
    fit = fit_runs(table, bootstrap=0)
    assert fit.parametric.status == "not_identifiable"
    assert set(surface_numbers(table, fit, [1e20])["kind"]) == {"run"}
    assert not (optima_numbers(fit, [1e20])["kind"] == "law").any()
    draw_all(table, [], fit, [1e20], tmp_path, dpi=50)
    assert len(list(tmp_path.iterdir())) == 3 * len(FIGURES)


def test_a_budget_without_an_answer_is_left_out_and_the_others_are_drawn(tmp_path):
    """Runs of one budget have an optimum there, and say nothing of others."""
    table = prepare_runs(chinchilla_runs([1e18], sizes=9, noise=0.001))
    fit, budgets = fit_runs(table, bootstrap=50), [1e18, 1e19]
    assert predict(fit, 1e18).params is not None
    assert predict(fit, 1e19).params is None
    for numbers in (regret_numbers(fit, budgets), sensitivity_numbers(fit, budgets)):
        assert set(numbers["flops"]) == {1e18}
    optima = optima_numbers(fit, budgets)
    assert set(optima[optima["kind"] == "answer"]["flops"]) == {1e18}
    draw_all(table, [], fit, budgets, tmp_path, dpi=50)
    page = report_page(table, [], fit, tmp_path, budgets, "one budget")
    assert (optima["kind"] == "law").sum() == 1  # no line beyond the only budget
    assert "grows as" not in page
    section = page[page.index('<section id="range">') :]
    assert section[: section.index("</section>")].count(f"<td>{flops_text(1e18)}</td>") == 2
    assert "not identifiable" in page


def test_a_handful_of_scattered_runs_is_drawn_without_a_law(tmp_path):
    rng = np.random.default_rng(2)
    sizes, tokens = 10 ** rng.uniform(7, 9, 5), 10 ** rng.uniform(9, 11, 5)
    runs = pd.DataFrame({"params": sizes, "tokens": tokens, "loss": rng.uniform(2, 3, 5)})
    table = prepare_runs(runs)
    fit = fit_runs(table, bootstrap=0)
    assert set(isoflop_numbers(table, fit)["kind"]) == {"run"}
    draw_all(table, [], fit, [1e20], tmp_path, dpi=50)
    assert len(list(tmp_path.iterdir())) == 3 * len(FIGURES)


def test_the_frontier_of_the_surface_is_its_lowest_loss_at_equal_compute(table, fit):
    numbers = surface_numbers(table, fit, BUDGETS)
    grid = numbers[numbers["kind"] == "grid"]
    for _, best in numbers[numbers["kind"] == "frontier"].iloc[::10].iterrows():
        cheaper = grid[grid["flops"] <= best["flops"]]
        assert cheaper["loss"].min() >= best["loss"] - 1e-9


def test_no_contour_has_its_label_on_a_run_or_a_line(table, fit):
    figure = Figure(figsize=(6.5, 4.8))
    ax = figure.subplots()
    numbers = surface_numbers(table, fit, BUDGETS)
    draw_surface(ax, numbers, colours_of(table, fit), "nats")
    figure.canvas.draw()
    drawn = numbers[numbers["kind"].isin(["run", "line", "frontier"])]
    points = ax.transData.transform(drawn[["params", "tokens"]].to_numpy(dtype=float))
    labels = [text for text in ax.texts if text.get_text().replace(".", "").isdigit()]
    assert len(labels) > 5
    for box in (text.get_window_extent() for text in labels):
        assert not box.count_contains(points)


def test_runs_of_one_budget_are_drawn_in_a_colour():
    flops = 1e18 * (1 + 1e-15 * np.arange(9))  # as 6 N D rounds them
    for colour in BudgetColours(flops)(pd.Series(flops)):
        assert colour[3] == 1
        assert colour[:3].max() < 0.9


@pytest.mark.parametrize("width", [3.3, 6.4])
@pytest.mark.parametrize("decades", [0.3, 0.7, 1.5, 2.4, 3.7, 7])
def test_labels_of_an_axis_of_compute_leave_a_gap(width, decades):
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, 3))
        axes = figure.subplots(1, 2 if width > 5 else 1, squeeze=False).flat
        for ax in axes:
            ax.set_xlim(2.7e11, 2.7e11 * 10**decades)
            log_axis(ax.xaxis, flops_text)
        figure.canvas.draw()
    for ax in axes:
        low, high = ax.get_xlim()
        labels = [t for t in ax.get_xticklabels() if low <= t.get_position()[0] <= high]
        boxes = [label.get_window_extent() for label in labels]
        assert len(boxes) >= 2
        assert all(b.x0 - a.x1 > 2 for a, b in itertools.pairwise(boxes))


def test_a_pdf_holds_text_in_fonts_that_publishers_take(table, fit, tmp_path):
    draw_all(table, [], fit, BUDGETS, tmp_path, width=3.3, names=["isoflop"], formats=["pdf"])
    content = (tmp_path / "isoflop.pdf").read_bytes()
    assert b"/Type3" not in content
    assert b"/TrueType" in content or b"/CIDFontType2" in content


def test_labels_are_moved_apart_and_keep_their_order():
    placed = spread(np.array([1.0, 1.01, 3.0, 1.02]), 0.2)
    assert np.diff(np.sort(placed)).min() >= 0.2 - 1e-6
    assert list(np.argsort(placed)) == [0, 1, 3, 2]
    assert spread(np.array([5.0, 1.0]), 0.5).tolist() == [5.0, 1.0]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (count_text(81523.0), "81.5k"),
        (count_text(999960.0), "1.00M"),
        (count_text(19.72), "19.7"),
        (count_text(7.3e10), "73.0B"),
        (count_text(5), "5.00"),
        (count_text(123456), "123k"),
        (tick_count(100000), "100k"),
        (tick_count(2.5e6), "2.5M"),
        (flops_text(8.1e11), "8.1×10¹¹"),
        (flops_text(1e18), "10¹⁸"),
        (flops_text(5.76e23), "5.76×10²³"),
        (flops_text(9.999e9), "10¹⁰"),
        (loss_text(1.34287), "1.3429"),
        (loss_text(0.012346), "0.01235"),
        (time_text(48), "48 s"),
        (time_text(312), "5.2 min"),
        (time_text(11160), "3.1 h"),
        (time_text(113, 2), "110 s"),
    ],
)
def test_numbers_are_written_for_people(written, expected):
    assert written == expected


def test_commands_and_the_fitter_load_no_matplotlib():
    code = (
        "import sys, flops_fit.cli.plot; "
        "assert not {'numpy', 'pandas', 'matplotlib', 'torch'} & set(sys.modules); "
        "import flops_fit.fit.core, flops_fit.report; assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_refit_of_the_forest_is_that_of_the_fit(fit):
    numbers = sensitivity_numbers(fit, BUDGETS)
    for flops in BUDGETS:
        part = numbers[(numbers["flops"] == flops) & (numbers["kind"] == "refit")]
        expected = [r for r in sensitivity_at(fit, flops) if r.group != "headline"]
        assert part["params"].tolist() == [r.params for r in expected]
        assert part["label"].tolist() == [r.label for r in expected]
    answers = numbers[numbers["kind"] == "answer"]
    assert answers["params"].tolist() == [predict(fit, c).params for c in BUDGETS]
    ax = Figure().subplots()
    draw_sensitivity(ax, numbers)
    filled = [c for c in ax.collections if tuple(c.get_facecolor()[0]) == to_rgba(INK)]
    assert len(filled) == part["headline"].sum()
    assert {c.get_offsets()[0][0] for c in filled} == {answers["params"].iloc[-1]}


def test_a_refit_without_a_law_is_crossed_and_does_not_stretch_the_axis(fit):
    numbers = sensitivity_numbers(fit, BUDGETS)
    last = numbers.index[-1]
    numbers.loc[last, ["params", "status"]] = [1e30, "not_identifiable"]
    ax = Figure().subplots()
    draw_sensitivity(ax, numbers)
    assert ax.get_xlim()[1] < 1e9
    assert "no law could be fitted" in [t.get_text() for t in ax.get_legend().get_texts()]


def test_residuals_are_measured_over_fitted_and_exact_runs_leave_none():
    frame = chinchilla_runs(np.geomspace(1e18, 1e20, 4))
    table = prepare_runs(frame)
    numbers = residual_numbers(table, fit_runs(table, bootstrap=0))
    assert numbers["residual"].abs().max() < 1e-9
    frame.loc[9, "loss"] *= 1.4
    table = prepare_runs(frame)
    numbers = residual_numbers(table, fit_runs(table, bootstrap=0)).set_index("experiment_id")
    assert numbers.loc["row 9", "status"] == "excluded"
    assert numbers.loc["row 9", "residual"] == pytest.approx(np.log(1.4), abs=1e-3)


def test_regret_is_nothing_at_the_optimum_and_the_answers_beside_it(fit):
    numbers = regret_numbers(fit, BUDGETS)
    for flops in BUDGETS:
        part = numbers[numbers["flops"] == flops]
        curve = part[part["kind"] == "curve"]
        assert curve.loc[(curve["factor"] - 1).abs().idxmin(), "waste"] == pytest.approx(
            0, abs=1e-6
        )
        listed = part[part["kind"] == "answer"]
        assert listed["waste"].tolist() == [r.waste for r in predict(fit, flops).regret]


def test_losses_are_drawn_against_flops_too(records):
    numbers = loss_curve_numbers(records)
    for run in records:
        part = numbers[numbers["experiment_id"] == run["experiment_id"]]
        if len(part):
            assert (part["flops"] == run["flops_per_token"] * part["tokens"]).all()


def test_the_speed_of_a_run_is_its_flops_over_its_time(records):
    numbers = throughput_numbers(records).set_index("experiment_id")
    assert len(numbers) == 25  # the failed run has no time
    run = records[0]
    speed = run["flops_counted"] / run["wall_seconds"]
    assert numbers.loc[run["experiment_id"], "flops_per_second"] == speed


def test_resamples_are_drawn_around_the_estimate(fit):
    numbers = uncertainty_numbers(fit)
    estimate = numbers.iloc[0]
    assert estimate["E"] == fit.parametric.E
    draws = numbers[numbers["kind"] == "resample"]
    assert len(draws) == fit.bootstrap.usable["surface"]
    assert draws["E"].min() < estimate["E"] < draws["E"].max()


def test_of_very_many_runs_some_of_every_budget_are_drawn_and_the_diverged_ones(records):
    assert drawn_records(records) == [r for r in records if r.get("loss_curve")]
    many = [{**r, "seed": seed} for seed in range(100) for r in records if r.get("loss_curve")]
    drawn = drawn_records(many)
    assert len(drawn) == MOST_CURVES
    assert {r["compute_budget"] for r in drawn} == {r["compute_budget"] for r in many}
    assert sum(r["status"] == "diverged" for r in drawn) == MOST_CURVES // 4
    assert len({(r["experiment_id"], r["seed"]) for r in drawn}) == MOST_CURVES


def test_a_crowded_panel_is_an_image_in_an_svg_of_sane_size(tmp_path):
    for name, marks in (("few", 400), ("many", 20_000)):
        figure = Figure()
        figure.subplots().scatter(*np.random.default_rng(0).random((2, marks)))
        save(figure, pd.DataFrame(), tmp_path, name, dpi=100)
        text = (tmp_path / f"{name}.svg").read_text()
        assert ("<image" in text) == (name == "many")
        assert len(text) < 500_000


@pytest.mark.parametrize(
    ("low", "high", "two_decimals"),
    [
        (1.7, 3.4, True),
        (2.0, 2.0, False),
        (1e-13, 3e-13, False),
        (2.001, 2.002, False),
        (1e-3, 3, False),
    ],
)
def test_contours_have_levels_for_small_close_and_equal_losses(low, high, two_decimals):
    levels = contour_levels(low, high)
    assert len(levels) >= 2
    assert levels[0] > 0
    assert (np.diff(levels) > 0).all()
    assert np.allclose(levels, np.round(levels, 2), rtol=0, atol=1e-15) == two_decimals
