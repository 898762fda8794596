"""The arms of a comparison, as its config names them."""

from pathlib import Path

import pytest
import yaml

from flops_fit.config.arms import arm_configs
from flops_fit.config.complete import complete_config
from flops_fit.config.load import load_config
from flops_fit.errors import FlopsFitError

SWEEP = {
    "model": {"factory": "parts:Net", "size_param": "width"},
    "dataset": {"factory": "parts:Tokens"},
    "budgets": [1e6],
    "sizes": {"values": [4]},
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working directory with the configs of sweeps ``a`` and ``b``, and a table of runs."""
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        Path(f"{name}.yaml").write_text(yaml.safe_dump({"name": name, **SWEEP}))
    Path("runs.csv").write_text("params,tokens,loss\n")
    return tmp_path


def arms(compared: dict, **more) -> dict[str, dict]:
    return arm_configs(complete_config({"name": "c", "compare": compared, **more}), [])


def test_arms_are_called_as_their_sweeps_or_as_the_config_says(folder):
    made = arms({"reference": "a.yaml", "candidate": "b.yaml", "candidates": {"old": "runs.csv"}})
    assert [(name, arm["name"]) for name, arm in made.items()] == [
        ("a", "a"),
        ("b", "b"),
        ("old", "c-old"),
    ]
    assert made["a"] == load_config("a.yaml")
    assert made["old"]["runs"] == "runs.csv"


def test_failures_are_accepted_in_all_arms_that_train(folder):
    made = arms({"reference": "a.yaml", "candidate": "runs.csv"}, accept_failures=True)
    assert [arm["accept_failures"] for arm in made.values()] == [True, False]


@pytest.mark.parametrize(
    ("compared", "message"),
    [
        ({"reference": "a.yaml"}, "compare: no candidate; allowed: candidate, candidates"),
        ({"candidate": "a.yaml"}, "compare.reference: missing, and it has no default"),
        (
            {"reference": "a.yaml", "candidate": "none.yaml"},
            "compare.candidate: 'none.yaml' does not exist; allowed: the config",
        ),
        (
            {"reference": "a.yaml", "candidate": "a.yaml"},
            "compare.candidate: 'a.yaml' is the sweep 'a', called 'a', and so is compare.reference",
        ),
        (
            {"reference": "a.yaml", "candidates": {"a": "b.yaml"}},
            "compare.candidates.a: 'b.yaml' is the sweep 'b', called 'a', and so is an arm before",
        ),
        (
            {"reference": "a.yaml", "candidates": {"-x": "b.yaml"}},
            "compare.candidates: '-x' is not allowed; allowed: letters, digits",
        ),
        ({"reference": "rates.yaml", "candidate": "b.yaml"}, "'rates.yaml' fits no law"),
        ({"reference": "nested.yaml", "candidate": "b.yaml"}, "a comparison is no sweep"),
        ({"reference": "broken.yaml", "candidate": "b.yaml"}, "broken.yaml: bugdets: unknown key"),
    ],
)
def test_bad_arms_are_named_by_their_key(folder, compared, message):
    rates = {"name": "rates", **SWEEP, "learning_rate_factors": [1, 2]}
    Path("rates.yaml").write_text(yaml.safe_dump(rates))
    nested = {"name": "n", "compare": {"reference": "a.yaml", "candidate": "b.yaml"}}
    Path("nested.yaml").write_text(yaml.safe_dump(nested))
    Path("broken.yaml").write_text(yaml.safe_dump({"name": "x", **SWEEP, "bugdets": [1]}))
    with pytest.raises(FlopsFitError) as error:
        arms(compared)
    assert message in str(error.value)
