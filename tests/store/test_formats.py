"""JSON of a newer version is refused in words, that of an older one read: nothing is guessed."""

import json

import pytest
from planned_job import Job

from flops_fit.cli.main import main
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import hashes_file, verified_file
from flops_fit.experiment.spec import read_spec
from flops_fit.files import FORMAT, read_json, read_object, write_object
from flops_fit.plan.amounts import read_checked
from flops_fit.plan.price import rate_for
from flops_fit.plugins.data_files import FileHashes
from flops_fit.store.collect import edited_tables, read_results
from flops_fit.store.plan_file import read_plan
from flops_fit.store.records import note_failure, read_failure, read_record, seal
from flops_fit.store.verified import Verified


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        job = Job(tmp_path_factory.mktemp("job"), patch)
        assert job() == 0
        yield job


def readers(job):
    (plan,) = (job.spec.parents[1] / "plans").glob("*.json")
    return {
        "spec": (job.spec, read_spec),
        "plan": (plan, read_plan),
        "record": (job.folder / "record.json", lambda path: read_record(path, job.id)),
    }


def rewritten(path, value):
    """The file with another format, sealed again where it was; one without for None."""
    content = json.loads(path.read_text())
    sealed = content.pop("checksum", None) is not None
    content.pop("format")
    content = content if value is None else {"format": value, **content}
    return json.dumps(seal(content) if sealed else content)


@pytest.mark.parametrize("kind", ["spec", "plan", "record"])
def test_a_newer_format_is_refused_and_an_older_one_read(job, kind, tmp_path):
    path, read = readers(job)[kind]
    assert json.loads(path.read_text())["format"] == FORMAT
    other = tmp_path / path.name
    other.write_text(rewritten(path, None))
    read(other)
    for value in (FORMAT + 1, "two"):
        other.write_text(rewritten(path, value))
        with pytest.raises(
            FlopsFitError, match=r"format .* was written by a newer version of flops-fit"
        ):
            read(other)


def newer(path):
    """Let a file say that a newer version wrote it."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format": FORMAT + 1}))


@pytest.fixture(scope="module")
def finished(job):
    """The results of a sweep that has been checked and collected, and whose second run failed."""
    plans = job.results / ".plan"
    (plan,) = (plans / "plans").glob("*.json")
    sweep = plans / "sweeps" / "job.json"
    sweep.parent.mkdir()
    sweep.write_bytes(plan.read_bytes())
    place = ["--plan", str(sweep), "--results", str(job.results)]
    assert main(["check", *place]) == 0
    tables = [f"--{kind}={job.results}/job/results.{kind}" for kind in ("json", "csv")]
    assert main(["collect", *place, *tables]) == 0
    (job.results / "runs" / "other").mkdir()
    note_failure(job.results / "runs" / "other", "other", "0", "no room")
    return job.results


def test_every_object_that_is_written_carries_its_format(finished):
    written = {path: read_json(path) for path in finished.rglob("*.json")}
    kinds = {path.parent.name for path in written}
    assert {"checked", "tables", "specs", "plans", "seen", "other", ".plan"} <= kinds
    records = written.pop(finished / "job" / "results.json")
    objects = {str(path): value for path, value in written.items()}
    objects |= {record["experiment_id"]: record for record in records}
    assert [name for name, value in objects.items() if value.get("format") != FORMAT] == []


def test_what_others_read_is_refused_where_a_newer_version_wrote_it(finished, tmp_path):
    (checked,) = (finished / ".plan" / "checked").glob("*.json")
    rate = tmp_path / ".plan" / "rate-cpu.json"
    rate.parent.mkdir()
    rate.write_text('{"flops_per_second": 1e9, "step_seconds": 0.1, "source": "here"}')
    pricing = {"device": None, "flops_per_second": None, "step_seconds": None}
    assert rate_for(pricing, 0, "no", tmp_path).source == "here"  # an older one is read
    other = tmp_path / "results.json"
    records = read_json(finished / "job" / "results.json")
    other.write_text(json.dumps([{**records[0], "format": FORMAT + 1}]))
    copy = tmp_path / "checked.json"
    copy.write_bytes(checked.read_bytes())
    assert read_checked(copy).unique_items == read_object(copy)["unique_items"]
    newer(copy)
    newer(rate)
    for read in (
        lambda: read_checked(copy),
        lambda: rate_for(pricing, 0, "no", tmp_path),
        lambda: read_results(other),
    ):
        with pytest.raises(FlopsFitError, match="was written by a newer version of flops-fit"):
            read()


def test_what_only_saves_time_is_ignored_where_a_newer_version_wrote_it(finished):
    write_object(hashes_file(finished), {"/a": [1, 2, "sha"]})
    assert FileHashes(hashes_file(finished)).known == {"/a": [1, 2, "sha"]}
    for path in (hashes_file(finished), verified_file(finished)):
        newer(path)
    assert FileHashes(hashes_file(finished)).known == {}
    assert Verified(finished).known == {}
    failed = finished / "runs" / "other"
    assert read_failure(failed, "0") == "no room"
    newer(failed / "failure.json")
    assert read_failure(failed, "0") is None
    table = finished / "job" / "results.csv"
    table.write_text(table.read_text() + "edited\n")
    assert edited_tables(finished, "job") == [table]
    newer(finished / ".plan" / "tables" / "job.json")
    assert edited_tables(finished, "job") == []
