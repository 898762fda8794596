"""Tables of trackers and spreadsheets, of one known law: read right, refused, or doubted; never in silence."""

import json

import numpy as np
import pandas as pd
import pytest
from simulated import LAWS, sweep

from flops_fit.errors import FlopsFitError
from flops_fit.fit import Reading, prepare_runs, read_runs
from flops_fit.fit.curves import read_points

RUNS = sweep(LAWS["hoffmann"], noise=0.002, sizes=7, budgets=4, low=1e17, high=1e19)
RUNS = RUNS.assign(params=RUNS["params"].round(), tokens=RUNS["tokens"].round())
N, D, LOSS = (RUNS[name] for name in ("params", "tokens", "loss"))
C = 6 * N * D


def check(frame: pd.DataFrame, rel: float = 1e-9) -> None:
    """The numbers are those of the simulated runs."""
    for name, values in {"params": N, "tokens": D, "loss": LOSS}.items():
        assert frame[name].tolist() == pytest.approx(values.tolist(), rel=rel)


def text_of(values: pd.Series, write) -> list[str]:
    return [write(v) for v in values]


def with_commas(digits: int):
    return lambda v: f"{v:.{digits}f}".replace(".", ",")


def with_points(v) -> str:
    return f"{v:,.0f}".replace(",", ".")


TRACKED = {
    "MLflow": {"params.n_params": N, "params.num_tokens": D, "metrics.eval_loss": LOSS},
    "Neptune": {"parameters/n_params": N, "parameters/tokens": D, "metrics/eval/loss (last)": LOSS},
    "ClearML": {
        "hyperparams.General.n_params": N,
        "hyperparams.General.tokens": D,
        "last_metrics.eval.loss.value": LOSS,
    },
    "a nested config": {"config.n_params.value": N, "summary.tokens": D, "summary.eval/loss": LOSS},
    "powers in the header": {"N (×10⁶)": N / 1e6, "tokens (10^9)": D / 1e9, "loss": LOSS},
    "German units": {"Parameter (Mio.)": N / 1e6, "Tokens (Mrd.)": D / 1e9, "Loss": LOSS},
    "EFLOPs behind C": {"N": N, "C (EFLOPs)": C / 1e18, "loss": LOSS},
    "EFLOPs in cells": {"N": N, "C": text_of(C / 1e18, "{} EFLOPs".format), "loss": LOSS},
    "PF-days in cells": {"N": N, "C": text_of(C / 8.64e19, "{} PF-days".format), "loss": LOSS},
    "a perplexity held out": {"N": N, "D": D, "val_ppl": np.exp(LOSS), "train_loss": 9.0},
    "a loss that is normalised": {"N": N, "D": D, "normalized_loss": LOSS / 3, "nll": LOSS},
    "a total with more in it": {"N": N, "D": D, "total_loss": LOSS + 1, "lm_loss": LOSS},
    "bits": {"N": N, "D": D, "val_bpc": LOSS},
}


@pytest.mark.parametrize("name", TRACKED)
def test_columns_of_trackers_and_spreadsheets_are_understood(name):
    check(prepare_runs(pd.DataFrame(TRACKED[name])).frame)


def test_where_a_tracker_has_planned_and_seen_tokens_the_seen_ones_count_and_it_is_a_doubt():
    frame = pd.DataFrame({"params": N, "config.tokens": 2 * D, "summary.tokens": D, "loss": LOSS})
    table = prepare_runs(frame)
    check(table.frame)
    assert any("'config.tokens' is 2 times as much" in doubt for doubt in table.doubts)
    same = prepare_runs(frame.assign(**{"config.tokens": D}))
    assert not same.doubts


@pytest.mark.parametrize("status", ["done", "COMPLETE", "succeeded", "ok", "FINISHED"])
def test_words_for_a_run_that_ended_well_leave_it_in(status):
    assert not prepare_runs(RUNS.assign(status=status)).left_out


# ------------------------------------------------------------------------------ files


def written(tmp_path, text, name="runs.csv", encoding="utf-8"):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return read_runs(tmp_path / name)


PLAIN = pd.DataFrame({"params": N, "tokens": D, "loss": LOSS}).to_csv(index=False)
FIRST, *REST = PLAIN.splitlines()
GERMAN = pd.DataFrame(
    {
        "params (M)": text_of(N / 1e6, with_commas(6)),
        "tokens (M)": text_of((D / 1e6).round(), with_points),
        "loss": text_of(LOSS, with_commas(9)),
    }
)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_points_are_thousands_where_losses_have_decimal_commas(tmp_path, separator):
    table = written(tmp_path, GERMAN.to_csv(index=False, sep=separator))
    check(table.frame, rel=0.02)
    assert table.frame["tokens"].tolist() == pytest.approx((1e6 * (D / 1e6).round()).tolist())
    assert any(note.startswith("column 'tokens (M)'") and "read as" in note for note in table.notes)


def test_points_stay_decimals_where_losses_have_points(tmp_path):
    text = "tokens (M);params;loss\n1,234;7e6;3.142\n2,345;8e6;3.011\n"
    frame = written(tmp_path, text).frame
    assert frame["loss"].tolist() == [3.142, 3.011]
    assert frame["tokens"].tolist() == [1.234e9, 2.345e9]


def test_code_pages_and_hard_spaces_of_spreadsheets_are_read(tmp_path):
    text = PLAIN.replace("params", "Größe,params").replace("\n", "\nx,")[: -len("x,")]
    check(written(tmp_path, text, encoding="cp1252").frame)
    check(written(tmp_path, PLAIN, encoding="utf-16-le").frame)
    thin = PLAIN.replace(f"{N[0]}", f"{int(N[0]):,}".replace(",", "\u2009"))
    check(written(tmp_path, thin).frame)


def test_lines_that_are_no_rows_are_passed_over_and_said(tmp_path):
    lines = [FIRST, *REST[:9], FIRST, "# second batch", *REST[9:], ",,", "# end"]
    table = written(tmp_path, "\n".join(lines))
    check(table.frame)
    assert table.notes[:2] == [
        "passed over: lines that repeat the header (11)",
        "passed over: lines that are comments (12, 33)",
    ]
    assert table.frame["row"].iloc[-1] == len(REST) + 3


def test_values_of_a_config_are_read_out_of_their_cells(tmp_path):
    cells = [json.dumps({"desc": None, "value": int(n)}) for n in N]
    frame = pd.DataFrame({"n_params": cells, "tokens": D, "loss": LOSS})
    check(written(tmp_path, frame.to_csv(index=False)).frame)


def test_tables_within_json_are_found(tmp_path):
    frame = pd.DataFrame({"params": N, "tokens": D, "loss": LOSS})
    check(written(tmp_path, frame.to_json(orient="split"), "a.json").frame)
    runs = {"date": "today", "experiments": frame.to_dict("records")}
    check(written(tmp_path, json.dumps(runs), "b.json").frame)


def test_the_folders_of_hugging_faces_trainer_are_read(tmp_path):
    for i in range(len(N)):
        log = [
            {"step": 1, "loss": 9.0, "num_input_tokens_seen": D[i] / 2},
            {"step": 2, "eval_loss": LOSS[i], "num_input_tokens_seen": D[i]},
            {"step": 2, "train_loss": 7.0, "total_flos": C[i], "train_runtime": 1.0},
        ]
        (tmp_path / f"run{i:02}").mkdir()
        state = {"global_step": 2, "log_history": log, "total_flos": C[i]}
        (tmp_path / f"run{i:02}" / "trainer_state.json").write_text(json.dumps(state))
    check(read_runs(tmp_path).frame)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.yaml", "- params: 1", "a .yaml file is not read"),
        ("x.md", "| params |", "a .md file is not read"),
        (
            "x.csv",
            b"PK\x03\x04..",
            "a workbook of a spreadsheet is not read; save the table as CSV",
        ),
        ("x.csv", "\n".join(REST), "the first line must name the columns: params,tokens,loss"),
        ("x.csv", "My runs,,\n" + PLAIN, "is the header further down"),
        ("x.csv", "Wall time,Step,Value\n1,2,3\n", "a curve of TensorBoard has neither N nor D"),
        ("x.csv", PLAIN.replace("loss", "log10_loss"), r"logarithms are not read \('log10_loss'\)"),
        (
            "x.csv",
            PLAIN.replace("params", "ln N"),
            r"no column for params.*logarithms are not read",
        ),
        ("x.csv", PLAIN.replace("tokens", "D/N"), "found params, D/N, loss.*'D/N' alone does not"),
        ("x.csv", PLAIN.replace("loss", "predicted_loss"), "no column for the loss"),
        ("x.csv", FIRST + "\n1e6,2e7,diverged\n", "'diverged'.*say in a column status that it"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_to_do(tmp_path, name, content, words):
    with pytest.raises(FlopsFitError, match=words):
        written(tmp_path, content, name)


def test_standard_input_has_a_name():
    with pytest.raises(FlopsFitError, match=r"-: no such file; allowed: .*/dev/stdin"):
        read_runs("-")


# ------------------------------------------------------------------------------ costs


@pytest.mark.parametrize(
    ("budget", "cost"), [([1, 2, 3, 4], "index"), ([20, 60, 200, 900], "dollars")]
)
def test_a_budget_that_is_no_compute_is_refused_and_groups_where_asked(budget, cost):
    frame = RUNS[["params", "tokens", "loss"]].assign(budget=np.repeat(budget, 7))
    with pytest.raises(FlopsFitError, match=r"'budget' is no FLOPs.*--cost 6nd"):
        prepare_runs(frame)
    table = prepare_runs(frame, reading=Reading(cost_column="6nd"))
    assert table.frame["flops"].tolist() == pytest.approx(C.tolist())
    assert table.frame["budget"].nunique() == 4
    assert table.frame["budget"].max() == pytest.approx(1e19, rel=0.01)


def test_logarithms_of_a_cost_are_refused_as_such():
    with pytest.raises(FlopsFitError, match="flops were logarithms, which are not read"):
        prepare_runs(RUNS.assign(flops=np.log10(C)).drop(columns="budget"))


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (3, "multiply-adds (MACs)"),
        (2, "the forward pass alone"),
        (1.5, "those of one device"),
        (8, "the recomputation"),
    ],
)
def test_a_cost_that_counts_something_else_says_what(times, words):
    frame = RUNS[["params", "tokens", "loss"]].assign(flops=times * N * D)
    table = prepare_runs(frame)
    assert any(f"as if it counted {words}" in note for note in table.notes)
    assert bool(table.doubts) == (times < 6)
    for reading in (Reading(cost_column="flops"), Reading(cost_as_given=True)):
        assert not prepare_runs(frame, reading=reading).doubts


def test_points_to_predict_may_have_the_names_and_units_of_runs(tmp_path):
    (tmp_path / "points.csv").write_text("N,tokens_B,name\n70M,1.4,a\n1.3B,26,b\n")
    points = read_points(tmp_path / "points.csv")
    assert points["params"].tolist() == [7e7, 1.3e9]
    assert points["tokens"].tolist() == [1.4e9, 2.6e10]
    assert points["name"].tolist() == ["a", "b"]


# ----------------------------------------------------------------------------- doubts


def spoiled(row: int, **values) -> pd.DataFrame:
    frame = RUNS[["params", "tokens", "loss"]].assign(flops=C)
    for name, value in values.items():
        frame.loc[row, name] = value
    return frame


EVERY_THIRD = np.arange(len(N)) % 3 == 0
SHIFTED = LOSS * np.where(EVERY_THIRD, 1.1, 1.0)
MEAN = pd.DataFrame([{"params": N.mean(), "tokens": D.mean(), "loss": LOSS.mean()}])
DOUBTED = {
    "tokens of a device": (
        {"params": N, "tokens": D / 8, "total_tokens": D, "loss": LOSS},
        "'total_tokens' is 8 times as much",
    ),
    "runs that were stopped": (
        {
            **{"params": N, "tokens": D, "loss": LOSS, "batch_size": 1, "seq_len": 64},
            "steps": D / 64 / np.where(EVERY_THIRD, 2, 1),
        },
        "but 2 times in row 0 (10 such rows): were these runs stopped early",
    ),
    "steps short of the last": (
        {"params": N, "tokens": D, "loss": LOSS, "max_steps": 90, "step": 90 - 30 * EVERY_THIRD},
        "10 of 28 runs ended early by step of max_steps (67% in row 0)",
    ),
    "progress": (
        {"params": N, "tokens": D, "loss": LOSS, "progress": 1 - 0.5 * EVERY_THIRD},
        "10 of 28 runs ended early by progress (50% in row 0)",
    ),
    "a mean over the training": (
        {"params": N, "tokens": D, "train_loss": LOSS, "train_runtime": 1.0},
        "'train_loss' beside 'train_runtime' is the mean over the whole training",
    ),
    "a total": (
        pd.concat([RUNS.assign(who=""), MEAN.assign(who="Total")]).drop(
            columns=["budget", "flops"]
        ),
        "row 28 is named 'Total': a summary of runs",
    ),
    "a mean without a name": (
        pd.concat([RUNS[["params", "tokens", "loss"]], MEAN]),
        "row 28 has the mean of N and D of the others",
    ),
    "a digit too few": (spoiled(5, tokens=D[5] / 10), "1 of 28 runs have another C / (N D)"),
    "tokens of one device": (
        {"params": N, "tokens": D / 8, "flops": C, "loss": LOSS, "world_size": 8},
        "the cost is 6 N D times column 'world_size'",
    ),
    "tokens of one pass": (
        {"params": N, "tokens": D / 3, "flops": C, "loss": LOSS, "epochs": 3},
        "the cost is 6 N D times column 'epochs'",
    ),
    "forward passes": (
        {"params": N, "tokens": D, "flops_per_token": 2 * N, "loss": LOSS},
        "column 'flops_per_token' is 2 N D in each run, as if it counted the forward pass alone",
    ),
    "a unit twice": ({"params_M": N, "tokens_B": D, "loss": LOSS}, "tokens are up to"),
    "thousands without a unit": (
        {"params": N / 1e3, "tokens": D * 1e3, "loss": LOSS},
        "more than 100,000 tokens per parameter",
    ),
    "a flag": (
        {"params": N, "tokens": D, "loss": SHIFTED, "use_moe": EVERY_THIRD.astype(int)},
        "column 'use_moe' splits the runs (1, 0): at the same N and D their losses differ by 10%",
    ),
    "a group in the name": (
        {"params": N, "tokens": D, "loss": SHIFTED, "name": np.where(EVERY_THIRD, "c4", "pile")},
        "column 'name' splits the runs (c4, pile)",
    ),
}


@pytest.mark.parametrize("name", DOUBTED)
def test_what_contradicts_itself_or_mixes_laws_is_a_doubt(name):
    columns, words = DOUBTED[name]
    doubts = prepare_runs(pd.DataFrame(columns).reset_index(drop=True)).doubts
    assert any(words in doubt for doubt in doubts), doubts


SOUND = {
    "tokens twice": {"total_tokens": D},
    "a depth": {"d": 12},
    "steps that agree": {"steps": D / 64, "batch_size": 1, "seq_len": 64},
    "steps that all ended": {"step": 90, "max_steps": 90},
    "a flag without effect": {"use_bias": EVERY_THIRD.astype(int)},
    "a group that N tells apart": {"bucket": np.where(N.median() < N, "large", "small")},
    "a group of few": {"retried": [1, 1] + [0] * 26},
    "counted FLOPs": {"flops": C * (1 + (1e7 / N) ** 0.5)},
    "several contexts": {"flops": C * np.tile([1.0, 1.5], 14)},
}


@pytest.mark.parametrize("name", SOUND)
def test_what_agrees_is_no_doubt(name):
    frame = RUNS[["params", "tokens", "loss"]].assign(**SOUND[name])
    assert not prepare_runs(frame).doubts


def test_a_batch_counted_otherwise_in_every_row_is_a_note():
    frame = RUNS[["params", "tokens", "loss"]].assign(iters=D / 512, tokens_per_iter=64)
    table = prepare_runs(frame)
    assert "tokens are 8 times iters x tokens_per_iter in every row" in table.notes
    assert not table.doubts


def test_passes_that_contradict_the_unique_tokens_are_said():
    frame = RUNS[["params", "tokens", "loss"]].assign(epochs=1.0, unique_tokens=D / 8)
    (note,) = (n for n in prepare_runs(frame).notes if "unique_tokens" in n)
    assert note.startswith("28 of 28 runs have 1 epochs, but tokens of 8 times unique_tokens")


def test_losses_that_may_be_perplexities_are_said_unless_their_unit_is():
    frame = RUNS.assign(loss=np.exp(LOSS))
    assert any("if they are perplexities" in note for note in prepare_runs(frame).notes)
    assert not any("perplex" in note for note in prepare_runs(RUNS).notes)


@pytest.mark.parametrize(
    ("column", "cells", "reason"),
    [
        ("diverged", [True, False], "diverged"),
        ("exclude", ["x", ""], "exclude"),
        ("valid", ["no", "yes"], "not valid"),
        ("converged", [0, 1], "not converged"),
    ],
)
def test_runs_that_a_flag_calls_unfit_are_left_out_and_named(column, cells, reason):
    table = prepare_runs(RUNS.assign(**{column: np.where(EVERY_THIRD, *cells)}))
    assert [run.reason for run in table.left_out] == [reason] * 10
    assert len(table.frame) == 18


def test_a_column_called_like_a_flag_with_other_values_leaves_nothing_out():
    table = prepare_runs(RUNS.assign(failed=np.arange(len(N))))
    assert not table.left_out
    assert "column 'failed' holds more than true and false, and leaves no run out" in table.notes
