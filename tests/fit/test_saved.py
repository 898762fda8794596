"""A fit and an answer as plain data: their schemas, older files, broken files, one vocabulary."""

import json
import re
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pandas as pd
import pytest
from published_schemas import problems, validator
from simulated import LAWS, small_models, sweep

from flops_fit.errors import FlopsFitError
from flops_fit.files import FORMAT, write_json
from flops_fit.fit import Fit, fit_runs, predict, prepare_runs, read_fit
from flops_fit.plan.table import COLUMNS as PLAN_COLUMNS
from flops_fit.plots.isoflop import isoflop_numbers
from flops_fit.plots.optima import optima_numbers
from flops_fit.plots.refits import sensitivity_numbers
from flops_fit.plots.regret import regret_numbers
from flops_fit.plots.residuals import residual_numbers
from flops_fit.plots.surface import surface_numbers

BEFORE = Path(__file__).parent / "before"  # made by the last version without ``format``
# Second names of a quantity, and those that only the project's origin uses.
STANDARD = Path(__file__).parents[2] / "docs" / "standard" / "results.csv"
SYNONYMS = {"run_id", "num_tokens", "num_params", "n_params", "compute_budget", "compute"}
SYNONYMS |= {"size_param_value", "final_loss", "val_loss", "C", "N", "D", "L"}


def seeded() -> pd.DataFrame:
    """Small models with two seeds, an outlier, and counts of N and C beside those fitted."""
    parts = [small_models().assign(seed=seed) for seed in (0, 1)]
    frame = pd.concat(parts, ignore_index=True)
    frame["loss"] *= np.exp(0.003 * np.random.default_rng(0).standard_normal(len(frame)))
    frame.loc[4, "loss"] *= 0.8
    return frame.assign(params_total=frame["params"] * 1.2)


def ladder() -> pd.DataFrame:
    """Runs in which D follows N."""
    params = np.geomspace(1e7, 1e9, 8)
    return pd.DataFrame({"params": params, "tokens": 20 * params, "loss": 2 + 500 * params**-0.35})


def without_budgets() -> pd.DataFrame:
    """Runs at as many values of C."""
    frame = sweep(LAWS["besiroglu"], noise=0.003)[["params", "tokens", "loss"]]
    return frame.assign(tokens=frame["tokens"] * np.geomspace(1, 7, len(frame)))


@cache
def made(kind: str) -> Fit:
    """A fit of one kind of table, with the options that it is for."""
    law = sweep(LAWS["besiroglu"])
    runs, options = {
        "stack": (seeded(), {"bootstrap": 4}),
        "one estimator": (law, {"bootstrap": 4, "method": "isoflop"}),
        "E held": (law, {"method": "fixed_e", "fixed_e": 1.8, "sensitivity": False}),
        "one axis": (ladder(), {"bootstrap": 4}),
        "no budgets": (without_budgets(), {"sensitivity": False}),
        "without refits": (law, {"sensitivity": False}),
    }[kind]
    return fit_runs(runs, **{"bootstrap": 0} | options)


KINDS = ("stack", "one estimator", "E held", "one axis", "no budgets", "without refits")


@pytest.fixture(scope="module", params=KINDS)
def fit(request) -> Fit:
    return made(request.param)


@cache
def answers(fit: Fit) -> list:
    """At the largest budget, far beyond it, and of a chosen size and number of tokens."""
    flops = fit.data.largest_budget
    return [
        predict(fit, flops),
        predict(fit, 1e4 * flops),
        predict(fit, flops, params=fit.data.params[1]),
        predict(fit, flops, tokens=fit.data.tokens[0]),
    ]


def test_a_fit_and_its_answers_keep_their_schemas(fit):
    assert problems("fit", fit.to_dict()) == []
    for answer in answers(fit):
        assert problems("answer", answer.to_dict()) == []


def test_a_fit_survives_its_file(fit, tmp_path):
    write_json(tmp_path / "fit.json", fit.to_dict())
    again = read_fit(tmp_path / "fit.json")
    assert again.to_dict() == fit.to_dict()
    assert next(iter(fit.to_dict())) == "format"
    assert predict(again, 1e20) == predict(fit, 1e20)


@pytest.mark.parametrize("name", ["fit", "answer"])
def test_a_schema_refuses_what_it_does_not_name_and_what_lacks(name):
    fit = made("without refits")
    value = fit.to_dict() if name == "fit" else predict(fit, 1e20).to_dict()
    assert problems(name, {**value, "surprise": 1})
    sometimes = {"choices"}  # where an option of the fit is not at its default, as here
    assert set(validator(name).schema["required"]) == set(value) - sometimes
    assert problems(name, dict(list(value.items())[1:]))


def described(schema: dict, path: str = "") -> list[str]:
    """Places of a schema that do not say what they are."""
    missing = [] if "description" in schema else [path]
    for name, part in schema.get("properties", {}).items():
        missing += described(part, f"{path}.{name}")
    for name, part in schema.get("$defs", {}).items():
        missing += described(part, f"{path}.$defs.{name}")
    return missing


@pytest.mark.parametrize("name", ["fit", "answer"])
def test_every_part_of_a_schema_is_described(name):
    assert described(validator(name).schema) == []


def same(one, other) -> bool:
    """Whether two JSON values are equal but for the last digits of numbers."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return other == (pytest.approx(one, rel=1e-10) if isinstance(one, float) else one)


def test_a_fit_from_before_formats_gives_the_answers_that_it_gave():
    fit = read_fit(BEFORE / "fit.json")
    flops = 3 * max(json.loads((BEFORE / "fit.json").read_text())["table"]["columns"]["flops"])
    now = [
        predict(fit, flops),
        predict(fit, flops / 3, params=1e9),
        predict(fit, flops / 9, tokens=1e9),
    ]
    for answer, before in zip(now, json.loads((BEFORE / "answers.json").read_text()), strict=True):
        written = json.loads(json.dumps(answer.to_dict()))
        for value in (written, before):  # texts may change, numbers and verdict may not
            value.pop("reasons")
            if value["own"]:
                value["own"].pop("words")
        assert same(before, written)
    assert [run.experiment_id for run in fit.excluded.runs] == ["r3", "r9"]
    assert fit.isoflop.budgets[1].best_left_out.experiment_id == "r9"


def broken(change) -> dict:
    value = json.loads((BEFORE / "fit.json").read_text())
    change(value)
    return value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.clear(), "not a fit"),
        (lambda v: v.update(format=FORMAT + 1), "newer"),
        (lambda v: v.pop("headline"), "no 'headline' in it.*fit again"),
        (lambda v: v["headline"].update(a="steep"), r"headline\.a: 'steep'; expected a number"),
        (lambda v: v["data"].update(n_runs=True), r"data\.n_runs: True; expected an integer"),
        (lambda v: v["isoflop"]["budgets"][2].pop("flops"), r"no 'flops' in isoflop\.budgets\[2\]"),
        (lambda v: v["laws"]["surface"].update(law=3), r"laws\.surface\.law"),
        (lambda v: v["laws"]["tied"]["law"].update(columns=["E"]), r"laws\.tied\.law"),
        (lambda v: v["cost"].pop("factor"), "cost: not as it was written"),
        (lambda v: v["headline"].update(method="magic"), "no law of its headline"),
        (lambda v: v.update(sizes={}), "sizes: {}; expected a list"),
    ],
)
def test_a_broken_or_foreign_fit_is_refused_by_place(tmp_path, change, message):
    write_json(tmp_path / "mine.json", broken(change))
    with pytest.raises(FlopsFitError, match=rf"mine\.json: .*{message}"):
        read_fit(tmp_path / "mine.json")


def keys_of(value) -> set[str]:
    """Every key of plain data, at any depth."""
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    if isinstance(value, list):
        return set().union(*map(keys_of, value))
    return set()


def columns_of(fit: Fit, frame: pd.DataFrame) -> set[str]:
    """Columns of the tables beside the figures of a fit."""
    table, budgets = prepare_runs(frame), [fit.data.largest_budget]
    tables = (
        isoflop_numbers(table, fit),
        residual_numbers(table, fit),
        surface_numbers(table, fit, budgets),
        *(make(fit, budgets) for make in (optima_numbers, sensitivity_numbers, regret_numbers)),
    )
    return set().union(*(set(numbers.columns) for numbers in tables))


def test_no_quantity_has_a_second_name_in_a_written_file():
    fit = made("stack")
    other = columns_of(made("one estimator"), sweep(LAWS["besiroglu"]))
    written = keys_of(fit.to_dict()) | other
    for answer in answers(fit):
        written |= keys_of(answer.to_dict())
    assert {"experiment_id", "params", "tokens", "flops", "loss", "size", "budget"} <= written
    assert not written & SYNONYMS - {"size_value"}


def test_the_tables_of_plans_and_runs_keep_the_same_names():
    """Beside ``params``, the N of the fit, ``num_params`` is another count: the model's own."""
    runs = set(pd.read_csv(STANDARD, nrows=1).columns)
    assert not (runs | set(PLAN_COLUMNS)) & SYNONYMS - {"num_params"}
    shared = {"experiment_id", "budget", "size", "params", "tokens", "flops"}
    assert shared <= runs & set(PLAN_COLUMNS)


def dataclasses_within(kind: type, seen: set) -> set:
    """A dataclass and those in its fields."""
    if kind in seen:
        return seen
    seen.add(kind)
    for hint in get_type_hints(kind).values():
        for part in re.findall(r"flops_fit\.fit\.[\w.]+", str(hint)):
            module, _, name = part.rpartition(".")
            found = getattr(__import__(module, fromlist=[name]), name)
            if is_dataclass(found):
                dataclasses_within(found, seen)
    return seen


def test_the_layout_in_the_docstring_names_every_field():
    import flops_fit.fit as room

    for kind in dataclasses_within(Fit, set()):
        for field in fields(kind):
            if kind is Fit or kind.__module__.endswith(("sections", "sizes")):
                assert re.search(rf"\b{field.name}\b", room.__doc__), (
                    f"{kind.__name__}.{field.name}"
                )
