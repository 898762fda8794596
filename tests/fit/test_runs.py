"""Reading runs: whose table it is does not matter, and nothing is dropped in silence."""

import json

import numpy as np
import pandas as pd
import pytest
from simulated import LAWS, sweep

from flops_fit.errors import FlopsFitError
from flops_fit.fit import Size, prepare_runs, read_curves, read_runs
from flops_fit.fit.curves import read_points
from flops_fit.fit.rows import LeftOut

N, D, LOSS = 1e8, 2e9, 3.1
TABLES = {
    "kyo-takano": {"C": 6 * N * D, "N": N, "D": D, "loss": LOSS},
    "Open-Athena": {
        "source": "x",
        "dataset": "y",
        "experiment": "e1",
        "tokens": D,
        "params": N,
        "budget": 6 * N * D,
        "loss": LOSS,
    },
    "Epoch": {"Model Size": N, "Training FLOP": 6 * N * D, "loss": LOSS},
    "ml-scalefit": {"model_size": N, "n_tokens": D, "loss": LOSS},
    "nanochat": {
        "flops_budget": 6 * N * D,
        "depth": 8,
        "model_dim": 512,
        "params_total": N,
        "tokens_trained": D,
        "val_bpb": LOSS,
        "core_score": 0.1,
        "train_time_sec": 5,
    },
    "marin": {
        "tokens": D,
        "loss": LOSS,
        "flops": 6 * N * D,
        "params": N,
        "name": "m",
        "label": "l",
        "hidden_dim": 512,
        "batch_size": 64,
    },
    "Gemstones": {
        "width": 256,
        "depth": 8,
        "params_active_precise": N,
        "tokens": D,
        "FLOPs_per_token": 6 * N,
        "final_loss": LOSS,
    },
    "CS336": {"parameters": N, "compute_budget": 6 * N * D, "final_loss": LOSS},
}


@pytest.mark.parametrize("source", TABLES)
def test_tables_of_other_projects_are_recognised(source):
    table = prepare_runs(pd.DataFrame([TABLES[source]]))
    row = table.frame.iloc[0]
    assert row["params"] == pytest.approx(N)
    assert row["tokens"] == pytest.approx(D)
    assert row["flops"] == pytest.approx(6 * N * D)
    assert row["loss"] == LOSS
    assert table.loss_unit == ("bits per byte" if source == "nanochat" else "nats")


def test_porian_columns_are_recognised():
    frame = pd.DataFrame(
        {
            "width": [256],
            "depth": [4],
            "params": [N],
            "params_no_embed": [N / 2],
            "tokens": [D],
            "flops_per_token": [6 * N],
            "bs": [64],
            "lr": [1e-3],
            "seed": [0],
            "train/loss": [LOSS + 1],
            "val/loss": [LOSS],
        }
    )
    table = prepare_runs(frame)
    assert table.frame["loss"].iloc[0] == LOSS
    assert table.frame["flops"].iloc[0] == pytest.approx(6 * N * D)


def test_what_was_recognised_and_derived_is_said():
    notes = prepare_runs(pd.DataFrame([TABLES["Epoch"]])).notes
    assert "column 'Model Size' read as params" in notes
    assert "tokens = flops / (6 params)" in notes


def test_our_own_columns_win_over_aliases():
    frame = pd.DataFrame(
        {
            "params": [N],
            "num_params": [7.0],
            "params_total": [9.0],
            "tokens": [D],
            "loss": [LOSS],
            "flops_6nd": [1.0],
            "flops_counted": [2.0],
            "flops": [6 * N * D],
            "size": [64],
        }
    )
    table = prepare_runs(frame)
    assert table.frame["params"].iloc[0] == N
    assert table.sizes == [Size(64, N, params_total=9.0)]


@pytest.mark.parametrize("column", ["params", "tokens", "loss"])
@pytest.mark.parametrize("value", ["nan", "-1", "0", "inf", "many", "1e300", "1e-300"])
def test_a_bad_number_is_refused_with_file_row_column_and_value(tmp_path, column, value):
    frame = sweep(LAWS["hoffmann"], sizes=4, budgets=2).astype(object)
    frame.loc[3, column] = value
    path = tmp_path / "mine.csv"
    frame.to_csv(path, index=False)
    with pytest.raises(FlopsFitError, match=rf"mine.csv: row 5, column '{column}'.*allowed"):
        read_runs(path)


def test_diverged_failed_and_outlying_runs_are_named_and_not_looked_at():
    frame = sweep(LAWS["hoffmann"], sizes=4, budgets=2)
    frame["status"] = "completed"
    frame["outlier"] = False
    frame["run_id"] = [f"r{i}" for i in range(8)]
    frame.loc[1, ["status", "loss"]] = ["diverged", np.nan]
    frame.loc[2, "status"] = "failed"
    frame.loc[5, "outlier"] = True
    table = prepare_runs(frame)
    assert {r.experiment_id: r.reason for r in table.left_out} == {
        "r1": "diverged",
        "r2": "failed",
        "r5": "outlier",
    }
    assert list(table.frame["experiment_id"]) == ["r0", "r3", "r4", "r6", "r7"]
    assert table.marks_outliers


def test_a_strange_outlier_flag_is_refused():
    frame = sweep(LAWS["hoffmann"], sizes=4, budgets=1).assign(outlier=["a", "0", "1", "0"])
    with pytest.raises(FlopsFitError, match="column 'outlier': 'a'; allowed: true or false"):
        prepare_runs(frame)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a readable CSV"),
        ("params,tokens,loss\n", "no runs"),
        ("params,tokens\n1,2\n", "no column for the loss"),
        ("params,loss\n1,2\n", "no column for tokens"),
        ("tokens,loss\n1,2\n", "no column for params"),
        ("params,tokens,loss,status\n1,2,3,failed\n", "all 1 runs are left out"),
        ("params,tokens,loss,flops\n1,2,3,6\n1,2,3,\n", "row 3, column 'flops'"),
    ],
)
def test_unusable_tables_are_refused_in_words(tmp_path, text, words):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(FlopsFitError, match=words):
        read_runs(path)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(FlopsFitError, match=r"nowhere\.csv: no such file"):
        read_runs(tmp_path / "nowhere.csv")


def test_json_records_and_their_curves_are_read(tmp_path):
    records = [
        {
            "experiment_id": f"r{i}",
            "experiment": {"params": N * (i + 1), "tokens": D, "size": 16 * (i + 1)},
            "final_loss": LOSS - i / 10,
            "flops_per_token": 6 * N * (i + 1),
            "status": "completed" if i else "diverged",
            "loss_curve": {"tokens": [1e6, 2e6], "loss": [5.0, 4.0]},
        }
        for i in range(3)
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(records))
    table = read_runs(path)
    assert list(table.frame["experiment_id"]) == ["r1", "r2"]
    assert list(table.frame["loss"]) == pytest.approx([3.0, 2.9])
    assert table.frame["flops"].tolist() == pytest.approx([12 * N * D, 18 * N * D])
    curves = read_curves(path)
    assert set(curves["experiment_id"]) == {"r1", "r2"}
    assert curves["flops"].iloc[0] == pytest.approx(6 * N * 2 * 1e6)


def test_points_need_params_and_tokens(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("params,loss\n1,2\n")
    with pytest.raises(FlopsFitError, match="no column 'tokens'"):
        read_points(path)
    path.write_text("params,tokens\n1e8,-2\n")
    with pytest.raises(FlopsFitError, match="row 2, column 'tokens'"):
        read_points(path)


def test_empty_cells_of_status_outlier_and_name_leave_no_run_out(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(
        "run_id,params,tokens,loss,status,outlier\n"
        "a,10,100,4,completed,false\n,20,100,3,,\nc,20,100,9,diverged,\n"
    )
    table = read_runs(path)
    assert list(table.frame["experiment_id"]) == ["a", "row 3"]
    assert table.left_out == [LeftOut("c", 4, "diverged")]


def test_rows_longer_than_the_header_are_refused_but_a_comma_at_each_end_is_not(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("params,tokens,loss\n0,10,100,4\n1,20,100,3\n")
    with pytest.raises(FlopsFitError, match="the first row has more fields than the header"):
        read_runs(path)
    path.write_text("params,tokens,loss\n10,100,4,\n20,100,3,\n")
    assert list(read_runs(path).frame["params"]) == [10, 20]


def test_the_states_of_an_export_are_understood(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("params,tokens,loss,State\n1e6,2e7,3,finished\n1e6,3e7,2.9,crashed\n")
    table = read_runs(path)
    assert len(table.frame) == 1
    assert [run.reason for run in table.left_out] == ["crashed"]


def test_rows_that_repeat_another_are_left_out_and_named(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("params,tokens,loss\n1e6,2e7,3\n1e6,2e7,3\n1e6,3e7,2.9\n")
    table = read_runs(path)
    assert table.left_out == [LeftOut("row 3", 3, "repeats row 2")]
    assert len(table.frame) == 2


def test_rows_with_the_numbers_of_another_are_a_doubt_unless_they_are_seeds(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("name,params,tokens,loss\na,1e6,2e7,3\nb,1e6,2e7,3\nc,1e6,3e7,2.9\n")
    assert any(
        doubt.startswith("1 rows repeat N, D and the loss") for doubt in read_runs(path).doubts
    )
    path.write_text("seed,params,tokens,loss\n0,1e6,2e7,3\n1,1e6,2e7,3\n0,1e6,3e7,2.9\n")
    assert not read_runs(path).doubts
