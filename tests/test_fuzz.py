"""Random input to the readers: they succeed or raise `FlopsFitError`, and nothing else.

The examples are the same at each run. ``pytest -m slow tests/test_fuzz.py`` tries many more.
"""

import copy
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import recipes
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import grid, plan_of

from flops_fit.config.complete import complete_config
from flops_fit.config.load import load_config
from flops_fit.config.schema import schema
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.spec import read_spec
from flops_fit.files import canonical_hash
from flops_fit.fit import read_runs
from flops_fit.fit.columns import ALIASES
from flops_fit.fit.curves import read_curves, read_points
from flops_fit.fit.learning_rate import COLUMNS, read_rates
from flops_fit.fit.plain import to_plain
from flops_fit.fit.runs import KEPT
from flops_fit.store.plan_file import read_plan, read_plan_use
from flops_fit.store.records import check_record, seal
from flops_fit.sweep import Skipped

PROFILES = [pytest.param(60, id="few"), pytest.param(2000, id="many", marks=pytest.mark.slow)]


def fuzz(strategy, examples: int, body) -> None:
    """Call ``body`` on examples of ``strategy``, always the same ones."""

    @settings(max_examples=examples)
    @given(strategy)
    def run(value):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body(value)

    run()


def succeeds_or_says_why(function, *arguments):
    """The function's value, or None for a `FlopsFitError` with a message of one line."""
    try:
        return function(*arguments)
    except FlopsFitError as error:
        message = str(error)
    assert len(message.splitlines()) == 1, message
    return None


# ----------------------------------------------------------------------------------- configs

VALID = {
    "name": "fuzz",
    "model": {"factory": "a:B", "size_param": "width", "kwargs": {"depth": 2}},
    "dataset": {"factory": "a:C", "kwargs": {"file": "x"}, "sources": ["x"], "example": "a:d"},
    "loss": {"function": "a:l"},
    "optimizer": {"factory": "a:o", "kwargs": {"momentum": 0.9}, "clip_norm": 1.0},
    "budgets": ["1e6", 2e6],
    "sizes": {"per_budget": {"1e6": [4, 8], 2000000: ["16"]}},
    "seeds": [0, 1],
    "batch": {"value": 64, "params": {"reference": 1e3, "power": 0.5}},
    "learning_rate": {"file": "rate.json"},
    "schedule": {"kind": "wsd", "warmup": 0.1, "decay": "0.2"},
    "resources": {"gpus": 0, "micro_batch_items": None, "compile": "false"},
    "fit": {"delta": "auto", "bootstrap": 10},
    "plot": {"dpi": 100},
}
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.binary(max_size=4),
    st.sampled_from(
        [
            10**400,
            -(10**400),
            1e308,
            5e-324,
            "nan",
            "inf",
            "1e400",
            "1e12",
            "-1",
            "",
            "no",
            "\ud800",
            "a\0b",
            "auto",
            "a:b",
            {},
            [],
            [[]],
            {"value": 1},
            {1: 2},
            {None: None},
            {"a": {"b": []}},
            {1, 2},
            (1, 2),
            "x" * 5000,
        ]
    ),
    st.recursive(
        st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        ),
        max_leaves=8,
    ),
)
KEY = st.one_of(
    st.sampled_from(
        [*schema()["properties"], "value", "function", "kwargs", "per_budget", "window"]
    ),
    st.text(max_size=5),
    st.integers(),
    st.none(),
    st.booleans(),
    st.floats(),
)


def places(value, path=()) -> list[tuple]:
    """The path of every value inside ``value``, itself included."""
    children = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


@st.composite
def mutated(draw, valid, odd, key, ways=("replace", "remove", "add")):
    """``valid`` with up to three values replaced, removed or added."""
    value = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(places(value)[1:] or [("",)]))
        parent = value
        for step in path:
            parent = parent[step]
        if not isinstance(parent, (dict, list)) or not parent:
            continue
        match draw(st.sampled_from(ways)):
            case "replace":
                parent[last] = draw(odd)
            case "remove":
                del parent[last]
            case "add" if isinstance(parent, dict):
                parent[draw(key)] = draw(odd)
            case "add":
                parent.append(draw(odd))
            case "loop":  # YAML can; JSON and its mutations cannot
                parent[last] = parent
                return value
    return value


def check_config(value) -> None:
    config = succeeds_or_says_why(complete_config, value)
    if config is not None:  # what is accepted can be hashed, written and accepted again
        again = complete_config(config)
        assert canonical_hash(jsonable(again)) == canonical_hash(jsonable(config))


def jsonable(config: dict) -> dict:
    """`sizes.per_budget` has numbers for keys."""
    return json.loads(json.dumps(config, allow_nan=False))


def test_the_config_that_is_mutated_is_sound():
    check_config(VALID)
    assert complete_config(VALID)["sizes"]["per_budget"] == {1e6: [4, 8], 2e6: [16]}


@pytest.mark.parametrize("examples", PROFILES)
def test_a_mutated_config_is_completed_or_refused(examples):
    ways = ("replace", "replace", "remove", "add", "loop")
    fuzz(mutated(VALID, ODD, KEY, ways) | ODD, 5 * examples, check_config)


@pytest.mark.parametrize("examples", PROFILES)
def test_any_bytes_as_a_config_file_are_read_or_refused(examples, tmp_path):
    path = tmp_path / "config.yaml"
    valid = yaml.safe_dump(VALID)
    spliced = st.builds(
        lambda at, length, text: valid[:at] + text + valid[at + length :],
        st.integers(0, len(valid)),
        st.integers(0, 20),
        st.text(max_size=6)
        | st.sampled_from(["&a [*a]", "!!set {1}", "<<: *b", "2020-13-45", "\t"]),
    )

    def body(content):
        path.write_bytes(content)
        succeeds_or_says_why(load_config, path)

    texts = spliced | st.text(max_size=40)
    content = st.binary(max_size=30) | texts.map(lambda t: t.encode("utf-8", "surrogatepass"))
    fuzz(content, examples, body)


# ------------------------------------------------------------------------------------ tables

NAMES = [
    *ALIASES,
    *(alias for names in ALIASES.values() for alias in names),
    *KEPT,
    "x",
    "",
    "loss.1",
]
GOOD_CELL = st.integers(1, 10**9).map(str) | st.floats(1e-3, 1e20).map(str)
CELL = st.one_of(
    GOOD_CELL,
    GOOD_CELL,
    GOOD_CELL,
    st.text(max_size=6),
    st.sampled_from(
        [
            "",
            "nan",
            "inf",
            "-1",
            "0",
            "1e308",
            "1e-320",
            "1e999",
            "True",
            "1,5",
            '"',
            "9" * 400,
            "completed",
            "diverged",
            "\ud800",
            "\0",
            "NA",
            "0x10",
            "1_000",
            " 7 ",
            "２",
        ]
    ),
)


@st.composite
def csv_bytes(draw):
    """A table that is often nearly right."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6))
    if draw(st.booleans()):
        names = ["params", "tokens", "loss", *names]
    cell = draw(st.sampled_from([GOOD_CELL, CELL]))
    rows = draw(st.lists(st.lists(cell, min_size=len(names), max_size=len(names)), max_size=8))
    if rows and draw(st.booleans()):
        rows[draw(st.integers(0, len(rows) - 1))].append(draw(CELL))
    comma = draw(st.sampled_from([",", ",", ",", ";", "\t"]))
    end = draw(st.sampled_from(["\n", "\r\n", "\r", ",\n", "\n\n"]))
    text = end.join(comma.join(row) for row in [names, *rows]) + end
    coding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-16", "utf-8-sig", "latin-1"]))
    content = text.encode(coding, "replace")
    at = draw(st.integers(0, len(content)))
    return content[:at] if draw(st.integers(0, 9)) == 0 else content


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**400, 1e308, "1", "nan", "completed", -1, 0]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
RUN = {
    "run_id": "a",
    "params": 10,
    "tokens": 100,
    "loss": 3.5,
    "flops_per_token": 60,
    "budget": 6e3,
    "status": "completed",
    "experiment": {"flops_per_token": 60, "experiment_id": "a"},
    "loss_curve": {"tokens": [1, 2], "loss": [4.0, 3.5]},
}
RUNS_JSON = st.one_of(
    JSON,
    st.lists(mutated(RUN, JSON, st.sampled_from(NAMES)), min_size=1, max_size=5),
    mutated([RUN] * 4, JSON, st.sampled_from(NAMES)),
)


def check_runs(path: Path, params: str) -> None:
    table = succeeds_or_says_why(read_runs, path, params)
    if table is not None:  # what is accepted can be fitted and stated
        numbers = table.frame[["params", "tokens", "flops", "loss"]].to_numpy(dtype=float)
        assert np.isfinite(numbers).all()
        assert (numbers > 0).all()
        json.dumps(to_plain([table.sizes, table.left_out, table.notes]), allow_nan=False)


COUNTED_AS = st.sampled_from(["params", "params", "params_total", "params_nonembedding"])


@pytest.mark.parametrize("examples", PROFILES)
def test_any_csv_is_read_as_runs_or_refused(examples, tmp_path):
    path = tmp_path / "runs.csv"

    def body(value):
        path.write_bytes(value[0])
        check_runs(path, value[1])

    fuzz(st.tuples(csv_bytes() | st.binary(max_size=40), COUNTED_AS), 3 * examples, body)


@pytest.mark.parametrize("examples", PROFILES)
def test_any_json_is_read_as_runs_and_curves_or_refused(examples, tmp_path):
    path = tmp_path / "runs.json"

    def body(value):
        path.write_text(json.dumps(value[0]))
        check_runs(path, value[1])
        succeeds_or_says_why(read_curves, path)

    fuzz(st.tuples(RUNS_JSON, COUNTED_AS), 2 * examples, body)


@pytest.mark.parametrize("examples", PROFILES)
def test_any_csv_is_read_as_curves_points_and_rates_or_refused(examples, tmp_path):
    path = tmp_path / "table.csv"
    heads = [["run_id", "tokens", "flops", "loss"], ["params", "tokens"], [*COLUMNS]]
    rows = st.sampled_from(heads).flatmap(
        lambda head: st.lists(
            st.lists(CELL, min_size=len(head), max_size=len(head)), max_size=4
        ).map(lambda rows: "\n".join(map(",".join, [head, *rows])).encode("utf-8", "replace"))
    )

    def body(content):
        path.write_bytes(content)
        for read in (read_curves, read_points, read_rates):
            table = succeeds_or_says_why(read, str(path))
            assert table is None or not np.isnan(table["tokens"].astype(float)).any()

    fuzz(rows | csv_bytes(), examples, body)


# ------------------------------------------------------------------- what the steps hand on

IDENTITY = recipes.identity()
RECORD = seal(
    {
        "experiment_id": "net",
        "hash": "0",
        "status": "completed",
        "final_loss": 1.5,
        "tokens_seen": 8,
        "reason": "",
        "curve": [1, 2],
    }
)
SPEC = recipes.spec(IDENTITY)
KEYS = st.text(max_size=4)


@pytest.mark.parametrize("examples", PROFILES)
def test_a_mutated_record_is_accepted_only_unchanged(examples):
    def body(value):
        text = json.dumps(value)
        record = succeeds_or_says_why(check_record, text.encode(), "net")
        assert (record is not None) == (same(json.loads(text), RECORD))

    fuzz(st.just(RECORD) | mutated(RECORD, JSON, KEYS) | JSON, 2 * examples, body)
    assert check_record(json.dumps(RECORD).encode(), "net") == RECORD


def same(value, other) -> bool:
    """Equal as JSON: 1 is not true, and not 1.0."""
    return repr(value) == repr(other) or (
        isinstance(value, dict)
        and isinstance(other, dict)
        and value.keys() == other.keys()
        and all(same(value[key], other[key]) for key in value)
    )


@pytest.mark.parametrize("examples", PROFILES)
def test_any_bytes_as_a_record_are_refused(examples):
    whole = json.dumps(RECORD).encode()
    flipped = st.tuples(st.integers(0, len(whole) - 1), st.integers(1, 255)).map(
        lambda at: whole[: at[0]] + bytes([whole[at[0]] ^ at[1]]) + whole[at[0] + 1 :]
    )
    cut = st.integers(0, len(whole) - 1).map(lambda at: whole[:at])

    def body(content):
        record = succeeds_or_says_why(check_record, content, "net")
        assert record is None or json.loads(content) == RECORD  # white space is no content

    fuzz(flipped | cut | st.binary(max_size=20), 2 * examples, body)


@pytest.mark.parametrize("examples", PROFILES)
def test_a_mutated_spec_is_read_only_with_its_identity_unchanged(examples, tmp_path):
    path = tmp_path / f"{SPEC['experiment_id']}.json"

    def body(value):
        path.write_text(json.dumps(value))
        spec = succeeds_or_says_why(read_spec, path)
        assert spec is None or spec.recipe.to_dict() == IDENTITY

    fuzz(mutated(SPEC, JSON, KEYS) | JSON, 2 * examples, body)
    path.write_text(json.dumps(SPEC))
    assert read_spec(path).to_dict() == SPEC


@pytest.mark.parametrize("examples", PROFILES)
def test_any_json_as_a_plan_is_refused_or_has_its_experiments(examples, tmp_path):
    path = tmp_path / "plan.json"

    def body(value):
        path.write_text(json.dumps(value))
        plan = succeeds_or_says_why(read_plan, path)
        if plan is not None:
            assert all(isinstance(e.experiment_id, str) for e in plan.experiments)
        use = succeeds_or_says_why(read_plan_use, path)
        assert plan is None or use is not None

    valid = plan_of(grid(ratios=[20]), skipped=[Skipped(1.0, 3, "why")]).to_dict()
    fuzz(mutated(valid, JSON, KEYS) | JSON, examples, body)
    path.write_text(json.dumps(valid))
    assert read_plan(path).to_dict() == valid
