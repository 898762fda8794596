"""``flops-fit compare``, `flops_fit.compare`, and the files that they write."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from jsonschema import Draft202012Validator
from simulated import GRIDS, LAWS, loss_of, sweep

import flops_fit
from flops_fit.api import Result
from flops_fit.cli.main import main
from flops_fit.comparison.result import plain_comparisons
from flops_fit.errors import FlopsFitError
from flops_fit.files import write_json
from flops_fit.fit import fit_runs
from flops_fit.plots.compare import compare_numbers
from flops_fit.sweep import SweepPlan

LAW = LAWS["besiroglu"]
TOP = 1e20


def fit_of(gain: float, seed: int):
    e, a, b, alpha, beta = LAW
    law = (e, a * gain ** (-alpha / 2), b * gain ** (-beta / 2), alpha, beta)
    frame = sweep(LAW, GRIDS["narrow"], 6, 4, 3e18, TOP, 0.002, seed=seed)
    luck = frame["loss"] / loss_of(LAW, frame["params"], frame["tokens"])
    frame["loss"] = loss_of(law, frame["params"], frame["tokens"]) * luck
    return fit_runs(frame, bootstrap=100, sensitivity=False, method="surface")


@pytest.fixture(scope="module")
def fits():
    return fit_of(1.0, 0), fit_of(1.25, 1)


@pytest.fixture(scope="module")
def files(fits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    for name, fit in zip(("adamw", "muon"), fits, strict=True):
        write_json(folder / name / "fit.json", fit.to_dict())
    return folder


def arguments(folder: Path, *more: str) -> list[str]:
    sides = (
        "--reference",
        str(folder / "adamw/fit.json"),
        "--candidate",
        str(folder / "muon/fit.json"),
    )
    return ["compare", *sides, *more]


def test_the_json_has_the_promised_keys_and_a_row_for_each_budget(files, capsys):
    assert main(arguments(files, "--json")) == 0
    said = json.loads(capsys.readouterr().out)
    assert {"reference", "candidate", "model", "rows", "crossing", "fairness"} <= {*said}
    assert (said["reference"]["name"], said["candidate"]["name"]) == ("adamw", "muon")
    assert [row["flops"] for row in said["rows"][-2:]] == pytest.approx([TOP, 10 * TOP])
    keys = {"flops", "multiplier", "ci", "probability", "verdict", "reasons"}
    assert all(keys <= {*row} for row in said["rows"])
    top = said["rows"][-2]
    assert top["ci"][0] < 1.25 < top["ci"][1]
    assert top["verdict"] == "better"


def test_the_files_hold_the_answer_and_load_nothing(files, tmp_path, capsys):
    assert main(arguments(files, "--flops", "1e20", "--out", str(tmp_path))) == 0
    printed = capsys.readouterr().out
    assert "muon is better at 10²⁰ FLOPs" in printed
    names = {path.name for path in tmp_path.iterdir()}
    figures = {f"{n}.{k}" for n in ("compare", "compare_isoflop") for k in ("svg", "png", "csv")}
    assert names == figures | {f"compare.{kind}" for kind in ("json", "md", "html", "txt")}
    page = (tmp_path / "compare.html").read_text()
    assert re.findall(r'<(\w+) id="budgets"', page) == ["div"]  # the style sheet hides it in print
    assert "<h1>muon is better than adamw at 10²⁰ FLOPs: adamw needs " in page
    assert "muon is better at 10²⁰ FLOPs" in page
    assert "<svg" in page
    assert "src=" not in page
    assert "https://" not in page
    assert "| better |" in (tmp_path / "compare.md").read_text()
    (row,) = json.loads((tmp_path / "compare.json").read_text())["rows"]
    numbers = pd.read_csv(tmp_path / "compare.csv")
    drawn = numbers[numbers["kind"] == "row"]["multiplier"]
    assert drawn.tolist() == pytest.approx([row["multiplier"]], rel=1e-6)


SCHEMA = Path(__file__).parents[2] / "docs/schemas/compare.schema.json"


@pytest.fixture(scope="module")
def schema():
    content = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(content)
    return Draft202012Validator(content)


def test_what_is_written_keeps_its_schema(fits, schema):
    compared = flops_fit.compare(*fits, [TOP]).to_dict()
    assert schema.is_valid(compared)
    assert schema.is_valid(plain_comparisons([flops_fit.compare(*fits, [TOP])] * 2))
    assert not schema.is_valid({**compared, "surprise": 1})
    for key in schema.schema["$defs"]["comparison"]["required"]:
        assert not schema.is_valid({k: v for k, v in compared.items() if k != key}), key


def test_several_candidates_stand_in_one_table_and_figure(files, fits, tmp_path, capsys):
    write_json(files / "other" / "fit.json", fits[1].to_dict())
    more = (str(files / "other/fit.json"), "--names", "adamw", "muon", "other", "--flops", "1e20")
    assert main([*arguments(files), *more, "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "compare.json").read_text())
    both = content["comparisons"]
    assert [each["candidate"]["name"] for each in both] == ["muon", "other"]
    assert both[0]["rows"][0]["ci"] == both[1]["rows"][0]["ci"]
    assert both[0]["false_alarms"] == pytest.approx(0.025)  # 5% for both together
    alone = flops_fit.compare(*fits, [TOP]).rows[0]
    assert both[0]["rows"][0]["smallest"] > alone.smallest
    table = (tmp_path / "compare.md").read_text()
    assert table.count("| better |") == 2
    numbers = pd.read_csv(tmp_path / "compare.csv")
    assert set(numbers["arm"]) == {"adamw", "muon", "other"}
    panels = pd.read_csv(tmp_path / "compare_isoflop.csv")
    assert (panels[panels["kind"] == "run"].groupby("arm").size() == 24).all()
    assert "2 candidates" in (tmp_path / "compare.html").read_text()


def test_the_same_comparison_writes_the_same_bytes(files, tmp_path):
    for name in ("one", "two"):
        assert main(arguments(files, "--flops", "1e20", "--out", str(tmp_path / name))) == 0
    for path in (tmp_path / "one").iterdir():
        text = path.read_bytes()
        assert text == (tmp_path / "two" / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--flops", "0"], "allowed: a positive finite number of FLOPs"),
        (["--names", "a", "a"], "allowed: 2 different names"),
        (["--reference-records", "x.json"], "allowed: the records of every arm"),
    ],
)
def test_bad_input_is_one_message(files, capsys, more, message):
    assert main(arguments(files, *more)) == 2
    assert message in capsys.readouterr().err


def test_the_numbers_of_the_figure_are_those_of_the_comparison(fits):
    compared = flops_fit.compare(*fits, [TOP])
    numbers = compare_numbers([compared])
    line = numbers[numbers["kind"] == "multiplier"]
    assert line["multiplier"].tolist() == compared.curve.multiplier
    assert (line["low"].astype(float) < line["high"].astype(float)).all()
    stars = numbers[(numbers["kind"] == "minimum") & (numbers["arm"] == "candidate")]
    assert stars[["flops", "loss"]].to_numpy().tolist() == compared.minima["candidate"]


def test_results_of_find_optimal_compare_as_their_fits_do(fits, tmp_path):
    results = [Result(SweepPlan([], []), [], "6nd", tmp_path, fit, "") for fit in fits]
    assert flops_fit.compare(*results, [TOP]).rows == flops_fit.compare(*fits, [TOP]).rows
    nothing = Result(SweepPlan([], []), [], "6nd", tmp_path, None, "too few runs")
    with pytest.raises(FlopsFitError, match="too few runs"):
        flops_fit.compare(results[0], nothing)
