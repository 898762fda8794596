"""The published schemas hold what is really written."""

import json
from pathlib import Path

import pytest
from planned_job import Job
from published_schemas import problems, validator

from flops_fit.store.records import FAILURE

ROOT = Path(__file__).parents[2]
NAMES = ("plan", "record", "spec")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What planning and training a tiny model leave: the content of each kind of file."""
    with pytest.MonkeyPatch.context() as patch:
        job = Job(tmp_path_factory.mktemp("written"), patch)
        assert job() == 0
        (plan,) = (job.results / ".plan" / "plans").glob("*.json")
        files = {"plan": plan, "spec": job.spec, "record": job.folder / "record.json"}
        yield {name: json.loads(path.read_text()) for name, path in files.items()}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_keeps_its_schema(written, name):
    assert problems(name, written[name]) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_refuses_what_it_does_not_name_and_what_lacks(written, name):
    assert problems(name, {**written[name], "surprise": 1})
    for key in validator(name).schema["required"]:
        assert problems(name, {k: v for k, v in written[name].items() if k != key}), key


@pytest.mark.parametrize("folder", ["standard", "standard_trunk"])
def test_the_records_that_come_with_the_documentation_keep_it(folder):
    records = json.loads((ROOT / "docs" / folder / "results.json").read_text())
    assert [problems("record", record) for record in records] == [[]] * len(records)


def test_a_failed_run_in_the_list_of_results_keeps_it(written):
    kept = ("format", "experiment_id", "hash", "num_params", "params")
    failed = {key: written["record"][key] for key in kept}
    failed |= {"status": "failed", "reason": f"as {FAILURE} says", "seed": 0, "num_tokens": 8}
    assert problems("record", failed) == []
    assert problems("record", {**failed, "status": "completed"})


def described(schema: dict, path: str = "") -> list[str]:
    """Places of a schema that do not say what they are."""
    missing = [] if "description" in schema else [path]
    for name, part in schema.get("properties", {}).items():
        missing += described(part, f"{path}.{name}")
    return missing


@pytest.mark.parametrize("name", NAMES)
def test_every_part_is_described(name):
    assert described(validator(name).schema) == []
