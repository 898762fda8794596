"""JSON of a newer version is refused in words, that of an older one read: nothing is guessed."""

import json
import sys

import pytest
from planned_job import Job

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.identity import read_spec
from flops_fit.files import FORMAT
from flops_fit.store.plan_file import read_plan
from flops_fit.store.records import read_record, seal


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "jobplugin", raising=False)
        patch.setattr(sys, "path", [*sys.path])
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
            FlopsFitError, match=r"format .*, which a newer version of flops-fit wrote"
        ):
            read(other)
