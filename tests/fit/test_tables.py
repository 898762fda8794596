"""Tables as strangers have them: formats, names, units and rows that are not runs."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from simulated import LAWS, log_optimum, sweep

from flops_fit.errors import FlopsFitError
from flops_fit.fit import Fit, Reading, fit_runs, predict, prepare_runs, read_runs
from flops_fit.fit.losses import LOSSES, losses_in
from flops_fit.fit.tables import spoken_floats, without_formulas

N, D, LOSS = [7e6, 1.3e9, 2e9], [1e9, 2e9, 3e9], [3.5, 3.25, 3.125]
ROWS = [{"params": n, "tokens": d, "loss": x} for n, d, x in zip(N, D, LOSS, strict=True)]


def grid(sizes: int = 4, budgets: int = 3) -> pd.DataFrame:
    return sweep(LAWS["besiroglu"], sizes=sizes, budgets=budgets)


def read(tmp_path, content, name: str = "runs.csv", **reading):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_runs(path, reading=Reading(**reading))


# ---------------------------------------------------------------------------------- formats

CSV = "params,tokens,loss\n7e6,1e9,3.5\n1.3e9,2e9,3.25\n2e9,3e9,3.125\n"
COLUMNS = {"params": N, "tokens": D, "loss": LOSS}
FORMATS = {
    "commas": ("runs.csv", CSV),
    "tabs": ("runs.tsv", CSV.replace(",", "\t")),
    "semicolons and decimal commas": ("runs.csv", CSV.replace(",", ";").replace(".", ",")),
    "what Excel writes before a header": ("runs.csv", "sep=;\n" + CSV.replace(",", ";")),
    "comments above the header": ("runs.csv", "# exported by x\n# on a day\n" + CSV),
    "a header that is a comment": ("runs.csv", "# " + CSV),
    "a byte order mark": ("runs.csv", CSV.encode("utf-8-sig")),
    "UTF-16": ("runs.csv", CSV.replace(",", "\t").encode("utf-16")),
    "carriage returns": ("runs.csv", CSV.replace("\n", "\r")),
    "compressed": ("runs.csv.gz", gzip.compress(CSV.encode())),
    "a JSON list": ("runs.json", json.dumps(ROWS)),
    "JSON under a name": ("runs.json", json.dumps({"data": ROWS})),
    "JSON by column": ("runs.json", json.dumps(COLUMNS)),
    "JSON by column and row": (
        "runs.json",
        json.dumps({k: {str(i): x for i, x in enumerate(v)} for k, v in COLUMNS.items()}),
    ),
    "JSON by run": ("runs.json", json.dumps({f"r{i}": row for i, row in enumerate(ROWS)})),
    "JSON Lines": ("runs.jsonl", "\n\n".join(map(json.dumps, ROWS)) + "\n"),
    "JSON Lines in .json": ("runs.json", "\n".join(map(json.dumps, ROWS))),
    "nested JSON": (
        "runs.json",
        json.dumps(
            [
                {
                    "config": {"model": {"n_params": r["params"]}, "tags": [1]},
                    "summary": {"total_tokens": r["tokens"], "eval": {"loss": r["loss"]}},
                }
                for r in ROWS
            ]
        ),
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_runs(tmp_path, name):
    file, content = FORMATS[name]
    frame = read(tmp_path, content, file).frame
    for column, values in COLUMNS.items():
        assert frame[column].tolist() == values


def test_parquet_is_read_with_pyarrow(tmp_path):
    pytest.importorskip("pyarrow")
    pd.DataFrame(COLUMNS).to_parquet(tmp_path / "runs.parquet")
    assert read_runs(tmp_path / "runs.parquet").frame["loss"].tolist() == LOSS
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(FlopsFitError, match=r"broken.parquet: not a readable Parquet table"):
        read_runs(tmp_path / "broken.parquet")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "runs.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr(pd, "read_parquet", lambda path: (_ for _ in ()).throw(ImportError()))
    with pytest.raises(FlopsFitError, match=r"needs pyarrow \(pip install"):
        read_runs(tmp_path / "runs.parquet")


@pytest.mark.parametrize("name", ["runs.xlsx", "runs.pkl", "runs.csv.zip"])
def test_files_that_are_not_read_say_what_is(tmp_path, name):
    with pytest.raises(FlopsFitError, match="is not read; save the table as CSV, JSON"):
        read(tmp_path, b"x", name)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("params,tokens,loss\n\n1e6,2e7,3\n   \n1e6,x,3\n", 5),
        ('note,params,tokens,loss\n"two\nlines",1e6,2e7,3\n,1e6,x,3\n', 4),
        ("\n\nsep=;\nparams;tokens;loss\n1e6;2e7;3\n1e6;x;3\n", 6),
    ],
)
def test_rows_are_numbered_by_the_lines_of_the_file(tmp_path, text, line):
    with pytest.raises(FlopsFitError, match=rf"row {line}, column 'tokens': 'x'"):
        read(tmp_path, text)


def test_errors_name_the_columns_of_the_file(tmp_path):
    with pytest.raises(FlopsFitError, match="row 3, column 'eval/loss': empty"):
        read(tmp_path, "num_params,D,eval/loss\n1e6,2e7,3\n1e6,2e7,\n")
    with pytest.raises(FlopsFitError, match="row 2, column 'num_params': -1"):
        read(tmp_path, "num_params,D,eval/loss\n-1,2e7,3\n")


@pytest.mark.parametrize("value", ["0", "-2.5"])
def test_a_loss_at_or_below_zero_says_that_the_law_takes_its_logarithm(tmp_path, value):
    with pytest.raises(FlopsFitError, match=r"row 3.*takes the logarithm of the loss: leave such"):
        read(tmp_path, f"params,tokens,loss\n1e6,2e7,3\n1e6,3e7,{value}\n")


# ----------------------------------------------------------------------- a folder of exports


def test_a_folder_with_a_file_a_run_is_a_table(tmp_path):
    for i, row in enumerate(ROWS):
        steps = [{"step": s, "tokens": row["tokens"] * s / 2, "train/loss": 4 - s} for s in (1, 2)]
        text = "params,step,tokens,train/loss,eval/loss\n" + "".join(
            f"{row['params']},{s['step']},{s['tokens']},{s['train/loss']},{e}\n"
            for s, e in zip(steps, (row["loss"], ""), strict=True)
        )
        (tmp_path / f"run{i}.csv").write_text(text)
    table = read_runs(tmp_path)
    assert table.frame["experiment_id"].tolist() == ["run0", "run1", "run2"]
    assert table.frame["loss"].tolist() == LOSS  # the last one logged, half-way
    assert table.frame["tokens"].tolist() == [d / 2 for d in D]
    assert "3 of them are histories, of which the last values count" in table.notes
    (note,) = (n for n in table.notes if "logged their last loss before their end" in n)
    assert "(the first at 50% of its tokens): the tokens at that loss count" in note
    trained = read_runs(tmp_path, reading=Reading(loss_column="train/loss"))
    assert trained.frame["tokens"].tolist() == D


def test_folders_of_a_tracker_join_the_files_of_a_run(tmp_path):
    for i, row in enumerate(ROWS):
        files = tmp_path / f"run-{i}" / "files"
        files.mkdir(parents=True)
        (files / "wandb-metadata.json").write_text(json.dumps({"host": "h", "args": ["--x"]}))
        summary = {
            "parameter_count": row["params"],
            "throughput/total_tokens": row["tokens"],
            "eval/loss": row["loss"],
            "train/loss": 1.0,
        }
        (files / "wandb-summary.json").write_text(json.dumps(summary))
    frame = read_runs(tmp_path).frame
    assert frame[["params", "tokens", "loss"]].to_dict("list") == COLUMNS
    assert frame["experiment_id"].tolist() == ["run-0", "run-1", "run-2"]


def test_a_folder_of_tables_keeps_their_rows_and_names_a_bad_file(tmp_path):
    (tmp_path / "a.csv").write_text(CSV)
    (tmp_path / "b.csv").write_text(CSV.replace("3.25", "0"))
    (tmp_path / "readme.md").write_text("no table")
    with pytest.raises(FlopsFitError, match=r"row 5.*\(row 5: b.csv\)"):
        read_runs(tmp_path)
    (tmp_path / "b.csv").write_text(CSV)
    assert len(read_runs(tmp_path).frame) == 6


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(FlopsFitError, match="no tables in this folder; allowed: files"):
        read_runs(tmp_path)


# ------------------------------------------------------------------------- which column is what


@pytest.mark.parametrize(
    ("columns", "loss"),
    [
        (("train/loss", "eval/loss"), "eval/loss"),
        (("loss", "val/loss"), "val/loss"),
        (("train_loss", "loss", "valid_loss"), "valid_loss"),
        (("loss", "final_loss"), "final_loss"),
        (("training_loss", "loss"), "loss"),
        (("Loss", "Validation Loss"), "Validation Loss"),
        (("summary.train.loss", "summary.eval.loss"), "summary.eval.loss"),
        (("trainLoss", "evalLoss"), "evalLoss"),
        (("loss", "heldout_loss", "test_loss"), "heldout_loss"),
        (("train/CE loss", "eval/c4/CE loss"), "eval/c4/CE loss"),
        (("loss", "z_loss", "aux_loss", "loss_se", "val_loss_std"), "loss"),
        (("eval/paloma/c4_en/loss", "eval/macro_loss", "eval/loss"), "eval/loss"),
        (("cd_val_loss", "train_loss"), "cd_val_loss"),
    ],
)
def test_held_out_losses_win_over_training_losses_and_the_choice_is_said(columns, loss):
    values = {name: [2.0 + i] for i, name in enumerate(columns)}
    table = prepare_runs(pd.DataFrame({"params": [1e6], "tokens": [2e7], **values}))
    assert table.frame["loss"].iloc[0] == values[loss][0]
    others = [c for c in losses_in(pd.DataFrame(values)) if c != loss]
    said = [note for note in table.notes if f"{loss!r} read as loss" in note]
    assert bool(said) == bool(others or loss.lower() != "loss")
    assert all(repr(other) in said[0] for other in others)


def test_every_loss_before_loss_is_held_out_and_every_training_loss_comes_after():
    place = LOSSES.index("loss")
    assert LOSSES.index("val_loss") < LOSSES.index("eval_loss") < LOSSES.index("final_loss") < place
    assert place < LOSSES.index("train_loss")


def test_the_loss_column_that_is_asked_for_is_taken():
    frame = pd.DataFrame({"params": [1e6], "tokens": [2e7], "train/loss": [2.0], "val/loss": [3.0]})
    asked = prepare_runs(frame, reading=Reading(loss_column="train_loss"))
    assert asked.frame["loss"].iloc[0] == 2.0
    assert asked.reading.loss_column == "train_loss"
    with pytest.raises(FlopsFitError, match="loss column 'nll' is not there; found params, tokens"):
        prepare_runs(frame, reading=Reading(loss_column="nll"))


def test_an_empty_held_out_column_does_not_win():
    frame = pd.DataFrame({"params": [1e6], "tokens": [2e7], "loss": [2.0], "eval_loss": [np.nan]})
    assert prepare_runs(frame).frame["loss"].iloc[0] == 2.0


@pytest.mark.parametrize(
    ("name", "unit"),
    [("perplexity", "nats"), ("eval/ppl", "nats"), ("word_perplexity", "nats per word")],
)
def test_perplexities_alone_are_read_as_their_logarithm(name, unit):
    table = prepare_runs(pd.DataFrame({"params": [1e6], "tokens": [2e7], name: [np.exp(3.0)]}))
    assert table.frame["loss"].iloc[0] == pytest.approx(3.0)
    assert table.loss_unit == unit
    assert any("loss = ln(perplexity)" in note for note in table.notes)


NAMES = {
    "a Weights & Biases export": {
        "Name": "r",
        "State": "finished",
        "config.n_params": 1e6,
        "summary/total_tokens": 2e7,
        "summary/eval/loss": 3.0,
        "summary/train/loss": 2.0,
    },
    "Hugging Face": {
        "num_parameters": 1e6,
        "num_input_tokens_seen": 2e7,
        "eval_loss": 3.0,
        "total_flos": 1.2e14,
    },
    "levanter": {
        "parameter_count": 1e6,
        "throughput/total_tokens": 2e7,
        "eval/loss": 3.0,
        "throughput/total_gflops": 1.2e5,
    },
    "units in the header": {
        "Params (M)": 1.0,
        "tokens_B": 0.02,
        "val loss": 3.0,
        "total_eflops": 1.2e-4,
    },
    "powers in the header": {
        "params (1e6)": 1.0,
        "tokens x1e9": 0.02,
        "loss": 3.0,
        "FLOPs [1e18]": 1.2e-4,
    },
    "PF-days of C": {"N": 1e6, "D": 2e7, "loss": 3.0, "C (PF-days)": 1.2e14 / 8.64e19},
    "PF-days": {"nParams": 1e6, "trainTokens": 2e7, "valLoss": 3.0, "pf_days": 1.2e14 / 8.64e19},
    "counted": {"n_params": 1e6, "tokens_seen": 2e7, "loss": 3.0, "flops_counted": 1.2e14},
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_trackers_and_units_in_headers_are_understood(name):
    row = prepare_runs(pd.DataFrame([NAMES[name]])).frame.iloc[0]
    assert row["params"] == pytest.approx(1e6)
    assert row["tokens"] == pytest.approx(2e7)
    assert row["flops"] == pytest.approx(1.2e14)
    assert row["loss"] == 3.0


def test_the_choice_among_several_counts_is_said():
    frame = pd.DataFrame({"num_params": [1e6], "n_params": [2e6], "tokens": [2e7], "loss": [3.0]})
    notes = prepare_runs(frame).notes
    assert "column 'num_params' read as params; there is also 'n_params'" in notes


def test_the_name_of_a_model_is_no_size(tmp_path):
    text = "model_size,n_params,tokens,loss\nsmall,1e6,2e7,3\nlarge,2e6,2e7,3\n"
    assert read(tmp_path, text).frame["params"].tolist() == [1e6, 2e6]


def test_a_width_with_several_depths_is_not_the_size_to_build():
    frame = grid().assign(width=[64, 64, 128, 128] * 3)
    assert all(size.size is None for size in prepare_runs(frame).sizes)


# ----------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["70M", "1.3B", "7 B", "125m", "12k"], [70e6, 1.3e9, 7e9, 125e6, 12e3]),
        (["2.8e9", "1,300,000,000", "1,300"], [2.8e9, 1.3e9, 1300]),
        (["1.300.000", "70.000.000"], [1.3e6, 70e6]),
        (["1 300 000", "1'300'000", "1_300_000"], [1.3e6] * 3),
        (["2,7183", "3,1"], [2.7183, 3.1]),
        (["1.300,5", "2,5"], [1300.5, 2.5]),
        (["1.2×10¹⁸", "10^18", "$3 \\times 10^{19}$"], [1.2e18, 1e18, 3e19]),
        (["12 tokens", "3.5B tokens", "2 billion"], [12, 3.5e9, 2e9]),
        (["10.5M", "105M", "10,500,000", "10¹⁸"], [10.5e6, 105e6, 10.5e6, 1e18]),
        (["1.093.439", "960.510"], [1093439, 960510]),
    ],
)
def test_numbers_are_read_as_people_write_them(cells, values):
    numbers, said = spoken_floats(pd.Series(cells))
    assert numbers.tolist() == pytest.approx(values)
    assert "read as" in said


@pytest.mark.parametrize("cell", ["1 2", "12,34,5", "pythia-70m", "7BB", "1..2", "M", "=1+1", "--"])
def test_what_is_no_number_stays_none(cell):
    assert spoken_floats(pd.Series([cell, "5M"]))[0].isna().tolist() == [True, False]


def test_commas_that_may_mean_either_are_decided_by_the_column():
    cells = pd.Series(["1,300", "2,400"])
    assert spoken_floats(cells)[0].tolist() == [1300, 2400]
    assert spoken_floats(cells, decimal_commas=True)[0].tolist() == [1.3, 2.4]
    assert spoken_floats(pd.Series(["1.5", "1,5"]))[0].isna().tolist() == [False, True]


def test_decimal_commas_of_the_losses_are_those_of_the_whole_file(tmp_path):
    text = "params_M;tokens (B);loss\n6,961;2,394;4,556\n13,5M;1,094;4,1\n"
    frame = read(tmp_path, text).frame
    assert frame["params"].tolist() == pytest.approx([6.961e6, 13.5e6])
    assert frame["tokens"].tolist() == pytest.approx([2.394e9, 1.094e9])
    assert frame["loss"].tolist() == [4.556, 4.1]


def test_the_unit_in_a_header_holds_for_cells_with_thousands(tmp_path):
    text = 'params,tokens_M,loss\n7e6,"12,345",3.5\n8e6,"1,000",3.4\n'
    assert read(tmp_path, text).frame["tokens"].tolist() == pytest.approx([1.2345e10, 1e9])


def test_losses_in_bits_are_called_so():
    frame = pd.DataFrame({"params": [1e6], "tokens": [2e7], "loss_bits": [3.0]})
    assert prepare_runs(frame).loss_unit == "bits"


def test_what_was_read_is_said(tmp_path):
    table = read(tmp_path, "params,tokens,loss\n7.0M,1B,3.5\n1.3B,2B,3.25\n")
    assert table.frame["params"].tolist() == [7e6, 1.3e9]
    assert "column 'params': '7.0M' read as 7,000,000" in table.notes


# ------------------------------------------------------------------------------------- units


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"params": 1e-6, "tokens": 1e-9}, "params counted millions and tokens counted billions"),
        ({"params": 1e-6}, "params counted millions"),
        ({"flops": 1e-18}, "flops counted EFLOPs"),
        ({"tokens": 1 / 2048}, "tokens counted items of many tokens each"),
    ],
)
def test_units_that_do_not_fit_are_refused_with_the_likely_ones(change, words):
    frame = grid()
    for name, factor in change.items():
        frame[name] *= factor
    with pytest.raises(FlopsFitError, match=f"allowed: 1 to 100.*{words}.*cost-as-given"):
        prepare_runs(frame)
    assert len(prepare_runs(frame, reading=Reading(cost_as_given=True)).frame) == 12


def test_flops_per_token_under_the_name_of_flops_are_refused_as_such():
    frame = grid()
    frame["flops"] /= frame["tokens"]
    with pytest.raises(FlopsFitError, match="flops were FLOPs per token"):
        prepare_runs(frame)


def test_millions_are_noticed_where_tokens_come_from_the_cost():
    frame = grid().drop(columns="tokens")
    frame["params"] /= 1e6
    with pytest.raises(FlopsFitError, match=r"tokens per parameter\. Are the columns in different"):
        prepare_runs(frame)


def test_a_cost_that_falls_as_tokens_rise_is_refused():
    n, d = np.repeat([1e8, 2e8, 4e8], 4), np.tile([1e9, 2e9, 4e9, 8e9], 3)
    flops = 40e9 * n / (d / 1e9) ** 0.2  # 40 to 3 N D
    frame = pd.DataFrame({"params": n, "tokens": d, "flops": flops, "loss": 3.0})
    with pytest.raises(FlopsFitError, match="column 'flops' falls as tokens rise"):
        prepare_runs(frame)


def test_costs_of_our_own_records_are_believed():
    frame = grid()
    frame["flops"] *= 100
    ours = frame.assign(flops_6nd=1.0, flops_counted=frame["flops"])
    assert len(prepare_runs(ours).frame) == 12


def test_counts_too_small_for_single_parameters_are_a_doubt():
    frame = grid().drop(columns=["flops", "budget"], errors="ignore")
    frame["params"] /= 1e6
    frame["tokens"] /= 1e9
    assert any("write 70M or 1.3B" in doubt for doubt in prepare_runs(frame).doubts)
    assert not prepare_runs(grid()).doubts


# -------------------------------------------------------------------------------- the cost


def at(frame: pd.DataFrame, flops: float, **reading):
    fit = fit_runs(prepare_runs(frame, reading=Reading(**reading)), bootstrap=0, sensitivity=False)
    return predict(fit, flops)


def counted(frame: pd.DataFrame) -> pd.Series:
    """FLOPs that are 6 N D with more on top in small models."""
    return 6 * frame["params"] * frame["tokens"] * (1 + (1e7 / frame["params"]) ** 0.5)


def test_a_cost_that_differs_from_6nd_is_believed_and_said_and_the_choice_is_the_users():
    frame = grid(sizes=7)[["params", "tokens", "loss"]].assign(total_flos=lambda f: counted(f))
    (note,) = (n for n in prepare_runs(frame).notes if "differs" in n)
    assert note.startswith("column 'total_flos' differs from 6 N D by +")
    assert "the column is believed; --cost 6nd (fit.cost_column) takes 6 N D" in note
    by_6nd = prepare_runs(frame, reading=Reading(cost_column="6nd"))
    assert by_6nd.frame["flops"].tolist() == pytest.approx(
        (6 * frame["params"] * frame["tokens"]).tolist()
    )
    assert not any("differs" in n for n in by_6nd.notes)
    known = np.exp(log_optimum(LAWS["besiroglu"], 1e20))
    assert at(frame, 1e20, cost_column="6nd").params == pytest.approx(known, rel=0.01)
    answer = at(frame, 1e20)
    assert answer.params * answer.tokens * 6 < 0.98 * 1e20


def test_a_budget_that_differs_from_the_cost_only_groups_the_runs():
    frame = grid(sizes=7).assign(budget=lambda f: 2 * f["budget"])
    (note,) = (n for n in prepare_runs(frame).notes if "differs" in n)
    assert "column 'budget' differs from the cost of the runs by +100%: column 'flops'" in note
    known = np.exp(log_optimum(LAWS["besiroglu"], 1e20))
    assert at(frame, 1e20).params == pytest.approx(known, rel=0.01)
    assert at(frame, 2e20, cost_column="budget").params == pytest.approx(known, rel=0.01)


def test_a_budget_alone_is_the_cost_where_it_is_not_6nd():
    frame = grid(sizes=7)[["params", "tokens", "loss", "budget"]].assign(budget=counted)
    table = prepare_runs(frame)
    assert table.frame["flops"].tolist() == frame["budget"].tolist()
    assert any("column 'budget' differs from 6 N D" in n for n in table.notes)
    near = frame.assign(budget=6.1 * frame["params"] * frame["tokens"])
    assert "flops = 6 params tokens" in prepare_runs(near).notes


def test_the_cost_that_is_asked_for_is_taken_with_its_unit():
    frame = grid()[["params", "tokens", "loss"]].assign(
        **{
            "my EFLOPs": lambda f: counted(f) / 1e18,
            "flops": lambda f: 6 * f["params"] * f["tokens"],
        }
    )
    asked = prepare_runs(frame, reading=Reading(cost_column="my EFLOPs"))
    assert asked.frame["flops"].tolist() == pytest.approx(counted(frame).tolist())
    with pytest.raises(FlopsFitError, match="cost column 'GFLOPs' is not there; found params"):
        prepare_runs(frame, reading=Reading(cost_column="GFLOPs"))


def test_tokens_corrected_in_a_plan_are_noticed_and_its_cost_per_token_can_be_taken():
    frame = grid().assign(flops_per_token=lambda f: f["flops"] / f["tokens"])
    frame = frame.assign(flops_6nd=frame["flops"], flops_counted=frame["flops"])  # our own table
    assert not any("differs" in note for note in prepare_runs(frame).notes)
    frame.loc[2, "tokens"] *= 0.5
    (note,) = (n for n in prepare_runs(frame).notes if "differs" in n)
    assert note.startswith("column 'flops' differs from 'flops_per_token' x tokens by +0% to +100%")
    asked = prepare_runs(frame, reading=Reading(cost_column="flops_per_token"))
    assert asked.frame["flops"][2] == pytest.approx(frame["flops"][2] / 2)


def test_a_column_that_may_be_a_cost_and_is_not_read_is_said():
    frame = grid()[["params", "tokens", "loss"]].assign(flops_of_gpu=1e18, mfu_flops=0.4)
    (note,) = (n for n in prepare_runs(frame).notes if "is not read as the cost" in n)
    assert "column 'flops_of_gpu'" in note


# ------------------------------------------------------------------------- rows and runs


def checkpoints() -> pd.DataFrame:
    final = grid().assign(run_id=[f"r{i}" for i in range(12)])
    parts = [
        final.assign(
            tokens=final["tokens"] * t, flops=final["flops"] * t, loss=final["loss"] + 1 - t
        )
        for t in (0.25, 0.5, 1.0)
    ]
    return pd.concat(parts, ignore_index=True)


def test_checkpoints_are_pointed_out_and_the_last_of_each_run_can_be_taken():
    table = prepare_runs(checkpoints())
    (doubt,) = table.doubts
    assert doubt.startswith("36 rows are 12 runs by 'run_id': checkpoints")
    assert doubt in table.notes
    last = prepare_runs(checkpoints(), reading=Reading(last_per="run_id"))
    assert not last.doubts
    assert last.frame["loss"].tolist() == pytest.approx(grid()["loss"].tolist())
    assert "12 of 36 rows: the last per run_id" in last.notes


def test_a_doubt_is_a_reason_against_trust_and_goes_when_decided():
    budget = 10 * checkpoints()["flops"].max()
    fit = fit_runs(prepare_runs(checkpoints()), bootstrap=20, sensitivity=False)
    assert any("checkpoints" in reason for reason in predict(fit, budget).reasons)
    how = Reading(last_per="run_id")
    fit = fit_runs(prepare_runs(checkpoints(), reading=how), bootstrap=20, sensitivity=False)
    assert not any("checkpoints" in reason for reason in predict(fit, budget).reasons)
    assert fit.data.reading == how
    again = Fit.from_dict(json.loads(json.dumps(fit.to_dict())))
    assert again.data.reading == how


def test_checkpoints_without_a_name_of_their_run_are_noticed_by_their_even_steps():
    frame = checkpoints().drop(columns="run_id")
    quarters = pd.concat([frame, frame.iloc[12:24].assign(tokens=lambda f: f["tokens"] * 1.5)])
    quarters = quarters.drop(columns=["flops", "budget"])
    (doubt,) = prepare_runs(quarters).doubts
    assert doubt.startswith("the tokens of one N grow in equal steps")
    assert len(prepare_runs(quarters, reading=Reading(last_per="params")).frame) == 12


def test_runs_of_doubled_horizons_are_no_checkpoints_and_their_steps_are_said():
    frame = pd.DataFrame(
        {"params": np.repeat([1e6, 2e6, 4e6], 5), "tokens": np.tile(1e8 * 2.0 ** np.arange(5), 3)}
    ).assign(loss=3.0)
    assert not prepare_runs(frame).doubts
    logged = prepare_runs(frame.assign(_step=frame["tokens"] / 1e5))
    assert not logged.doubts
    assert any("column '_step' has several values for one N" in note for note in logged.notes)
    assert prepare_runs(frame.assign(steps=frame["tokens"])).notes == prepare_runs(frame).notes


def test_fewer_tokens_than_parameters_are_a_doubt():
    frame = grid()[["params", "tokens", "loss"]]
    swapped = frame.rename(columns={"params": "tokens", "tokens": "params"})
    assert any(
        "12 runs have fewer tokens than parameters" in d for d in prepare_runs(swapped).doubts
    )
    assert not prepare_runs(swapped, reading=Reading(cost_as_given=True)).doubts


def test_numbers_of_another_kind_than_those_of_the_other_runs_are_a_doubt():
    frame = grid()[["params", "tokens", "loss"]].reset_index(drop=True)
    assert not prepare_runs(frame).doubts
    shifted = frame.copy()
    shifted.loc[2, ["tokens", "loss"]] = shifted.loc[2, ["loss", "tokens"]].to_list()
    tokens, loss = prepare_runs(shifted).doubts
    assert "1 of 12 runs have tokens more than 100000 times away from the median" in tokens
    assert "1 of 12 runs have loss more than 1000 times away from the median" in loss
    assert "in row 2): is a unit left out, or a column shifted?" in loss
    millions = frame["params"].where(frame.index % 3 > 0, frame["params"] / 1e6)
    (doubt,) = prepare_runs(frame.assign(params=millions)).doubts
    assert doubt.startswith("2 of 12 runs have params more than 100000 times away")


def test_a_row_that_is_a_summary_of_the_others_is_a_doubt():
    frame = grid().assign(name=[*(f"r{i}" for i in range(11)), "Mean"])
    (doubt,) = prepare_runs(frame).doubts
    assert doubt == "row 11 is named 'Mean': a summary of runs is no run; delete it"


def test_tokens_are_unique_tokens_times_passes_where_they_are_not_given():
    frame = grid().drop(columns=["flops", "budget"]).assign(epochs=4.0)
    frame = frame.assign(dataset_tokens=frame["tokens"] / 4)
    table = prepare_runs(frame.drop(columns="tokens"))
    assert table.frame["tokens"].tolist() == pytest.approx(frame["tokens"].tolist())
    assert "tokens = unique_tokens x epochs" in table.notes


def test_steps_and_batches_alone_say_what_to_compute():
    frame = grid().drop(columns=["tokens", "flops", "budget"]).assign(steps=100, batch_size=64)
    with pytest.raises(FlopsFitError, match=r"'steps', 'batch_size' alone do not give it: add a"):
        prepare_runs(frame)


def test_several_evaluations_of_a_run_are_pointed_out():
    frame = grid().assign(run_id=[f"r{i}" for i in range(12)])
    both = pd.concat([frame.assign(x="c4"), frame.assign(x="wiki", loss=frame["loss"] + 1)])
    assert "evaluations of one run" in prepare_runs(both).doubts[0]
    assert not prepare_runs(both, reading=Reading(where=["x=c4"])).doubts


def test_seeds_are_no_repeats_of_a_run():
    frame = grid().assign(run_id=[f"r{i}" for i in range(12)])
    seeds = pd.concat([frame.assign(seed=s) for s in (0, 1, 2)])
    assert not prepare_runs(seeds).doubts


def test_a_search_over_rates_is_pointed_out_and_the_best_of_each_cell_can_be_taken():
    frame = pd.concat([grid().assign(lr=lr, loss=grid()["loss"] + lr) for lr in (0.1, 0.2, 0.4)])
    (doubt,) = prepare_runs(frame).doubts
    assert doubt.startswith("36 rows share N and D with others and differ in 'lr': a search")
    best = prepare_runs(frame, reading=Reading(best_per="params,tokens"))
    assert not best.doubts
    assert best.frame["loss"].tolist() == pytest.approx((grid()["loss"] + 0.1).tolist())


@pytest.mark.parametrize(
    "column", ["dataset", "optimizer", "split", "model family", "config.corpus"]
)
def test_groups_that_a_law_would_mix_are_pointed_out_and_can_be_chosen(column):
    frame = pd.concat([grid().assign(**{column: "x"}), grid().assign(**{column: "y", "loss": 4.0})])
    table = prepare_runs(frame)
    assert any(f"column {column!r} has 2 values (x, y)" in doubt for doubt in table.doubts)
    chosen = prepare_runs(frame, reading=Reading(where=[f"{column}=x"]))
    assert not chosen.doubts
    assert len(chosen.frame) == 12
    assert f"12 of 24 rows: where {column}=x" in chosen.notes


def test_names_of_sizes_and_constant_columns_are_no_groups():
    frame = grid().assign(dataset="c4", model=[f"m{i}" for i in (0, 1, 2, 3)] * 3)
    frame["params"] = [1e8, 2e8, 4e8, 8e8] * 3
    frame["flops"] = 6 * frame["params"] * frame["tokens"]
    assert not prepare_runs(frame.drop(columns="budget", errors="ignore")).doubts


def test_several_values_of_one_column_mean_any_and_several_columns_mean_all():
    frame = grid().assign(a=["x", "y", "z", "z"] * 3, b=[1, 1, 1, 2] * 3)
    rows = prepare_runs(frame, reading=Reading(where=["a=x", "a=z", "b=1.0"])).frame
    assert len(rows) == 6


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        ({"where": ["colour=red"]}, "where: column 'colour' is not there; found"),
        ({"where": ["a=w"]}, "where: no row has a=w; found x, y"),
        ({"where": ["a=x", "b=y"]}, "where: no row meets a=x and b=y"),
        ({"last_per": "run"}, "last per: column 'run' is not there"),
    ],
)
def test_choices_that_name_nothing_are_refused(reading, words):
    frame = grid().assign(a=["x", "y"] * 6, b=["x", "y"] * 6)
    with pytest.raises(FlopsFitError, match=words):
        prepare_runs(frame, reading=Reading(**reading))


@pytest.mark.parametrize("bad", [{"where": ["x"]}, {"where": ["=x"]}, {"max_epochs": 0}])
def test_malformed_choices_are_refused(bad):
    with pytest.raises(FlopsFitError, match="allowed: "):
        Reading(**bad)


def test_passes_over_the_data_come_from_unique_tokens_and_can_be_bounded():
    frame = grid().assign(unique_tokens=[1e12] * 10 + [1e6] * 2)
    table = prepare_runs(frame)
    assert table.frame["epochs"].tolist() == pytest.approx(
        (frame["tokens"] / frame["unique_tokens"]).tolist()
    )
    assert any("2 of 12 runs read their data more than 4 times" in note for note in table.notes)
    labels = [row.label for row in fit_runs(table, bootstrap=0).sensitivity.rows]
    assert "without the 2 of more than 4 epochs" in labels
    few = prepare_runs(frame, reading=Reading(max_epochs=4))
    assert len(few.frame) == 10
    assert [run.reason for run in few.left_out] == ["more than 4 epochs"] * 2


# ---------------------------------------------------------------------- what is told of it


def test_the_best_run_of_a_budget_is_named_where_it_was_left_out():
    from flops_fit.report.table import markdown_table

    frame = sweep(LAWS["besiroglu"], noise=0.002, sizes=9, budgets=4)
    frame["run_id"] = [f"r{i}" for i in range(len(frame))]
    frame.loc[4, "loss"] *= 0.6
    fit = fit_runs(prepare_runs(frame), bootstrap=0, sensitivity=False)
    (left_out,) = [b.best_left_out for b in fit.isoflop.budgets if b.best_left_out]
    assert left_out.experiment_id == "r4"
    assert left_out.loss == frame.loc[4, "loss"]
    text = markdown_table(fit, [1e21])
    assert f"a run with a lower loss was left out: {left_out.experiment_id}" in text


def test_what_users_wrote_adds_nothing_to_the_markdown_table():
    from flops_fit.report.table import markdown_table

    frame = grid(sizes=5).assign(dataset=["<script>", "a|b"] * 7 + ["a|b"], loss_unit="x")
    unit = "nats | `x`\n<b>"
    fit = fit_runs(prepare_runs(frame), bootstrap=0, sensitivity=False, loss_unit=unit)
    text = markdown_table(fit, [1e21])
    assert "<script>" not in text
    assert "<b>" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    bars = [row.replace("\\|", "").count("|") for row in rows]
    assert set(bars) == {5, 7, 9}  # of members, minima and answers


def test_text_that_a_spreadsheet_would_run_stays_text():
    frame = without_formulas(
        pd.DataFrame({"run_id": ["=1+1", "@x", "a=b"], "loss": [-1.0, 2.0, 3.0]})
    )
    assert frame["run_id"].tolist() == ["'=1+1", "'@x", "a=b"]
    assert frame["loss"].tolist() == [-1.0, 2.0, 3.0]


def test_a_column_that_is_empty_throughout_is_not_looked_at_again():
    frame = grid().assign(budget=np.nan, flops=np.nan)
    assert "flops = 6 params tokens" in prepare_runs(frame).notes


# ---------------------------------------------------------- laws that the runs do not determine


def finite(value) -> bool:
    return bool(json.dumps(value, allow_nan=False))  # as FIT.json and `predict --json` are written


@pytest.mark.parametrize(
    "change",
    [
        {"loss": 15.136375},  # constant
        {"params": 2e5},
        {"tokens": 1e9},
        {"loss": [1.0, 2.0, 3.0, 4.0, 5.0] * 3},
        {"loss": [3e-13, 2e-13, 4e-13, 2e-13, 1e-13] * 3},
        {"loss": [3e90, 2e90, 4e90, 2e90, 1e90] * 3},
        {"loss": [2.0, 2.0, 0.01, 2.0, 2.1] * 3},
    ],
)
def test_what_determines_no_law_gives_finite_numbers_and_a_verdict(change):
    frame = grid(sizes=5).assign(**change).drop(columns="flops")
    frame["budget"] = 6 * frame["params"] * frame["tokens"]
    fit = fit_runs(prepare_runs(frame), bootstrap=10, sensitivity=False)
    assert finite(fit.to_dict())
    for factor in (1e-3, 1, 1e6):
        answer = predict(fit, factor * fit.data.largest_budget)
        assert finite(answer.to_dict())
        assert answer.verdict in ("provisional", "not identifiable")


def test_a_budget_whose_every_run_was_left_out_gives_its_lowest_and_takes_no_part():
    from flops_fit.fit.isoflop import STATUSES, parabola_minimum

    x, loss = np.arange(5.0), np.array([3.0, 2.0, 1.0, 2.0, 3.0])
    minimum = parabola_minimum(x, loss, np.stack([np.zeros(5), np.ones(5)]))
    assert [STATUSES[s] for s in minimum.status] == ["too_few_points", "bracketed"]
    assert minimum.log_n.tolist() == pytest.approx([2.0, 2.0])
    assert np.isfinite(minimum.loss).all()


def test_an_interval_holds_its_estimate():
    from flops_fit.fit.entries import _holding

    assert _holding([1.0, 2.0], 2.5) == [1.0, 2.5]
    assert _holding([1.0, 2.0], 0.5) == [0.5, 2.0]
    assert _holding([1.0, 2.0], 1.5) == [1.0, 2.0]


def test_the_best_run_of_a_budget_is_named_where_the_table_marks_it():
    frame = sweep(LAWS["besiroglu"], sizes=9, budgets=3).assign(outlier=False)
    frame.loc[4, ["loss", "outlier"]] = [2.0, True]
    fit = fit_runs(prepare_runs(frame), bootstrap=0, sensitivity=False)
    assert [bool(b.best_left_out) for b in fit.isoflop.budgets] == [True, False, False]
