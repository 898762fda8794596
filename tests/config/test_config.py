"""Configs: defaults, numbers written as text, and errors that name key, value and what is allowed."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from flops_fit.config.arms import arm_configs
from flops_fit.config.complete import complete_config
from flops_fit.config.load import load_config
from flops_fit.config.schema import schema
from flops_fit.errors import FlopsFitError

ROOT = Path(__file__).parents[2]
MINIMAL = {
    "name": "x",
    "model": {"factory": "a:b", "size_param": "d"},
    "dataset": {"factory": "c:d"},
    "budgets": [1e9],
    "sizes": {"values": [8]},
}
TRUNK = {"kind": "trunk", "warmup_tokens": 2000}


@pytest.mark.parametrize("path", sorted(ROOT.glob("config/*.yaml")), ids=lambda p: p.name)
def test_every_shipped_config_is_valid(path):
    config = complete_config(yaml.safe_load(path.read_text()))
    assert config["name"]
    if config["compare"] is not None:
        assert len(arm_configs(config, [str(ROOT)])) == 2


def test_numbers_written_as_text_become_numbers_in_lists_and_mappings():
    config = complete_config(
        MINIMAL
        | {"budgets": ["3e10", "1e12"], "sizes": {"per_budget": {"3e10": ["12"], 1e12: [16]}}}
    )
    assert config["budgets"] == [3e10, 1e12]
    assert config["sizes"]["per_budget"] == {3e10: [12], 1e12: [16]}
    assert type(config["sizes"]["per_budget"][3e10][0]) is int


SHORT_FORMS = {
    "model": ("a:Net", {"factory": "a:Net"}),
    "dataset": ("a:data", {"factory": "a:data"}),
    "loss": ("a:loss", {"function": "a:loss"}),
    "optimizer": ("a:optimizer", {"factory": "a:optimizer"}),
    "schedule": ("linear", {"kind": "linear"}),
    "budgets": ("1e8", [1e8]),
    "sizes": ([8, 16, 32], {"values": [8, 16, 32]}),
    "seeds": (3, [0, 1, 2]),
    "batch": (32768, {"value": 32768}),
    "learning_rate": ("1e-2", {"value": 0.01}),
}


@pytest.mark.parametrize("key", SHORT_FORMS)
def test_a_short_form_means_what_it_stands_for(key):
    short, full = SHORT_FORMS[key]
    if key == "model":  # its source names the argument that varies, see tests/plugins
        with pytest.raises(FlopsFitError, match="a:Net: no module named 'a'"):
            complete_config(MINIMAL | {key: short})
    else:
        assert complete_config(MINIMAL | {key: short}) == complete_config(MINIMAL | {key: full})


def test_a_script_and_its_counts_have_short_forms():
    rest = {"name": "x", "budgets": [1e9], "sizes": [8]}
    short = rest | {"trainer": "train.py", "counts": "a:counts"}
    full = rest | {"trainer": {"script": "train.py"}, "counts": {"function": "a:counts"}}
    assert complete_config(short) == complete_config(full)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "seeds",
            0,
            "seeds: 0 is not allowed; allowed: a whole number or a list or a mapping of keys",
        ),
        (
            "seeds",
            True,
            "seeds: True is not allowed; allowed: a whole number or a list or a mapping of keys",
        ),
        ("loss", 3, "loss: 3 is not allowed; allowed: text or a mapping of keys"),
        ("sizes", 8, "sizes: 8 is not allowed; allowed: a list or a mapping of keys"),
        (
            "learning_rate",
            "fast",
            "learning_rate: 'fast' is not allowed; allowed: a number or a mapping of keys",
        ),
    ],
)
def test_what_is_no_short_form_is_refused_as_it_was_written(key, value, message):
    with pytest.raises(FlopsFitError, match=message):
        complete_config(MINIMAL | {key: value})


def test_booleans_written_as_text_become_booleans():
    assert complete_config(MINIMAL | {"accept_failures": "true"})["accept_failures"] is True
    assert complete_config(MINIMAL | {"deterministic": "False"})["deterministic"] is False
    with pytest.raises(FlopsFitError, match="accept_failures: 'yes' is not allowed"):
        complete_config(MINIMAL | {"accept_failures": "yes"})


def test_the_given_mapping_stays_untouched():
    before = yaml.safe_dump(MINIMAL)
    complete_config(MINIMAL)
    assert yaml.safe_dump(MINIMAL) == before


def test_completing_twice_changes_nothing():
    once = complete_config(MINIMAL | {"sizes": {"per_budget": {"1e9": [8]}}})
    assert complete_config(once) == once


def test_a_schedule_has_the_keys_of_its_kind_alone():
    config = complete_config(MINIMAL | {"schedule": {"kind": "trunk", "warmup_tokens": "2e3"}})
    assert config["schedule"] == {
        "kind": "trunk",
        "warmup_tokens": 2000,
        "cooldown": 0.2,
        "shape": "sqrt",
        "final": 0.0,
    }
    assert complete_config(config) == config
    assert set(complete_config(MINIMAL)["schedule"]) == {"kind", "warmup", "decay", "final"}


def test_a_batch_that_grows_at_least_doubles_by_default_and_no_other_rule_has_the_key():
    config = complete_config(
        MINIMAL | {"batch": {"value": 64, "seen": {"reference": "1e6", "power": 1}}}
    )
    assert config["batch"]["seen"] == {"reference": 1e6, "power": 1.0, "factor": 1.2}
    assert "seen" not in complete_config(MINIMAL)["batch"]


def test_a_script_is_given_one_batch():
    of_script = {"trainer": "train.py", "counts": "a:counts", "budgets": [1e9], "sizes": [8]}
    growing = {"value": 64, "seen": {"reference": 1e6, "power": 1}}
    complete_config({"name": "mine", **of_script, "batch": 64})
    with pytest.raises(FlopsFitError, match=r"batch.seen: cannot be combined with trainer"):
        complete_config({"name": "mine", **of_script, "batch": growing})
    stored = {"checkpoint_store": "s3://bucket"}
    with pytest.raises(FlopsFitError, match=r"resources.checkpoint_store: cannot be combined with"):
        complete_config({"name": "mine", **of_script, "batch": 64, "resources": stored})


def test_a_table_of_runs_needs_nothing_to_train():
    assert complete_config({"name": "mine", "runs": "runs.csv"})["fit"]["method"] == "auto"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bugdets": [1]}, "bugdets: unknown key; did you mean budgets?"),
        (
            {"model": {"factory": "a:b", "size_prm": "d"}},
            "model.size_prm: unknown key; did you mean model.size_param?",
        ),
        (
            {"answer": {"hours": 1, "money": 1}},
            "answer.money: cannot be combined with answer.hours; remove one of them",
        ),
        (
            {"answer": {"hours": 1}},
            "answer.hours: needs pricing.device or pricing.flops_per_second, which is missing",
        ),
        (
            {"answer": {"money": 1}, "pricing": {"device": "H100"}},
            "answer.money: needs pricing.per_hour, which is missing",
        ),
        ({"budgets": []}, "budgets: [] is not allowed; allowed: a list of at least 1 entry"),
        ({"budgets": [-1e9]}, "budgets.0: -1000000000.0 is not allowed; allowed: more than 0"),
        ({"budgets": [1e9, 1e9]}, "budgets: 1e+09 is given twice"),
        ({"budgets": [float("inf")]}, "budgets.0: inf is not allowed; allowed: finite numbers"),
        ({"seeds": [0.5]}, "seeds.0: 0.5 is not allowed; allowed: a whole number"),
        ({"name": "a/b"}, "name: 'a/b' is not allowed; allowed: letters"),
        ({"schedule": {"kind": "trunk"}}, "schedule.warmup_tokens: missing, and it has no default"),
        (
            {"schedule": {"kind": "trunk", "warmup_tokens": 9, "warmup": 0.02}},
            "schedule.warmup: a fraction of D, so runs of different D would share no step",
        ),
        ({"schedule": {"cooldown": 0.1}}, "schedule.cooldown: 0.1; allowed only with kind: trunk"),
        (
            {"schedule": TRUNK, "batch": {"value": 8, "tokens": {"reference": 1, "power": 0.5}}},
            "batch.tokens: a power of D cannot be combined with schedule.kind: trunk",
        ),
        (
            {
                "schedule": TRUNK,
                "learning_rate": {"value": 8, "tokens": {"reference": 1, "power": 0.5}},
            },
            "learning_rate.tokens: a power of D cannot be combined with schedule.kind: trunk",
        ),
        (
            {"learning_rate": {"value": 1, "seen": {"reference": 1, "power": 0.5}}},
            "learning_rate.seen: only a batch can grow with the tokens seen",
        ),
        (
            {"batch": {"value": 1, "seen": {"reference": 1, "power": 0.5, "factor": 1}}},
            "batch.seen.factor: 1 is not allowed; allowed: 1.1 or more",
        ),
        (
            {"schedule": {**TRUNK, "cooldown": 1}},
            "schedule.cooldown: 1 is not allowed; allowed: less than 1",
        ),
        ({"sizes": {}}, "sizes: [] given; allowed: exactly one of values, per_budget, window"),
        ({"sizes": {"values": [8], "window": {}}}, "sizes: ['values', 'window'] given"),
        (
            {"sizes": {"per_budget": {"2e9": [8]}}},
            "sizes.per_budget: no sizes for the budget 1e+09",
        ),
        (
            {"sizes": {"per_budget": {"1e9": [8], "2e9": [8]}}},
            "sizes.per_budget.2e+09: not a budget; allowed: 1e+09",
        ),
        ({"seeds": {"2e9": [0]}}, "seeds: no seeds for the budget 1e+09"),
        ({"seeds": {"1e9": [0], "2e9": [0]}}, "seeds.2e+09: not a budget; allowed: 1e+09"),
        ({"seeds": {"1e9": []}}, "allowed: a list of at least 1 entry"),
        ({"convention": "6ND"}, "convention: '6ND' is not allowed; allowed: counted, 6nd"),
        (
            {"learning_rate": {}},
            "learning_rate: [] given; allowed: exactly one of value, function, file",
        ),
        ({"dataset": {"factory": "c:d", "prepare": "e:f"}}, "dataset.example: missing"),
        ({"runs": "runs.csv"}, "model: cannot be combined with runs"),
        (
            {"fit": {"delta": "small"}},
            "fit.delta: 'small' is not allowed; allowed: auto or a number",
        ),
        ({"schedule": {"warmup": 1}}, "schedule.warmup: 1 is not allowed; allowed: less than 1"),
    ],
)
def test_bad_values_are_refused_with_key_value_and_allowed(change, message):
    with pytest.raises(FlopsFitError) as error:
        complete_config(MINIMAL | change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "not valid YAML"),
        ("", "an empty file is not a config; allowed: a mapping of keys"),
        ("- 1", "a list is not a config; allowed: a mapping of keys"),
        ("name: x", "model: missing, and it has no default"),
    ],
)
def test_broken_files_are_named(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(FlopsFitError) as error:
        load_config(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FlopsFitError, match="no such config file"):
        load_config(tmp_path / "none.yaml")


def objects(part: dict):
    yield part
    for child in [*part.get("properties", {}).values(), *part.get("$defs", {}).values()]:
        yield from objects(child)


def test_the_schema_is_closed_and_every_key_is_described():
    for part in objects(schema()):
        if "properties" in part:
            assert part["additionalProperties"] is False
        assert (
            part.get("description")
            or "$ref" in part
            or part.get("required") == ["reference", "power"]
        )


@pytest.mark.parametrize(
    ("page", "first"),
    [
        ("learning_rate.md", "learning_rate: 0.01"),
        ("questions.md", "dataset:"),
        ("trunks.md", "batch:"),
    ],
)
def test_the_blocks_of_rules_and_shares_are_accepted(page, first):
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    (block,) = [yaml.safe_load(block) for block in blocks if block.startswith(first)]
    budgets = [float(b) for b in (block.get("dataset") or {}).get("unique_fraction", {})]
    grid = {"budgets": budgets} if budgets else {}
    dataset = {**MINIMAL["dataset"], **block.pop("dataset", {})}
    config = complete_config({**MINIMAL, **grid, **block, "dataset": dataset})
    for key, value in block.items():
        assert key in config, key
        if isinstance(value, list):
            assert config[key] == value


def test_the_measures_of_the_page_are_accepted():
    page = (ROOT / "docs/questions.md").read_text()
    (block,) = re.findall(r"```yaml\n(metrics:.*?)```", page, re.DOTALL)
    config = complete_config({**MINIMAL, **yaml.safe_load(block)})
    assert config["metrics"] == {
        "code": {"dataset": {"factory": "my:code_windows", "kwargs": {}}},
        "accuracy": {"function": "my:right", "dataset": None},
    }
    assert (config["fit"]["loss"], config["fit"]["accuracy"]) == ("code", "accuracy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": {"Loss": "m:x"}}, "metrics.Loss: results.csv has a column loss already"),
        ({"metrics": {"a": {}}}, "metrics.a: neither function nor dataset is given"),
        ({"metrics": {"a b": "m:x"}}, "metrics: 'a b' is not allowed"),
        ({"fit": {"loss": "code"}}, "fit.loss: 'code' is not measured; allowed: loss"),
        (
            {"fit": {"accuracy": "loss"}},
            "fit.accuracy: 'loss' is not measured; allowed: a name under",
        ),
        ({"fit": {"chance": 0.5}}, "fit.chance: needs fit.accuracy"),
        (
            {"metrics": {"code": "m:x"}, "fit": {"loss": "code", "method": "envelope"}},
            "fit.loss: 'code' cannot be combined with fit.method: envelope",
        ),
    ],
)
def test_measures_that_cannot_be_are_refused(changes, message):
    with pytest.raises(FlopsFitError, match=re.escape(message)):
        complete_config({**MINIMAL, **changes})


def test_the_config_readme_agrees_with_the_schema():
    location = ROOT / "docs" / "make_config_readme.py"
    spec = importlib.util.spec_from_file_location("make_config_readme", location)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "config" / "README.md").read_text() == module.readme()


def test_aliases_that_stand_for_too_much_are_refused_before_they_are_copied(tmp_path):
    lines = ["a0: &a0 [1, 2]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(FlopsFitError, match=r"bomb.yaml: its aliases .* stand for 3.*e\+11 values"):
        load_config(path)
