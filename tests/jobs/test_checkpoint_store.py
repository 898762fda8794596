"""Checkpoints and records in a store by URL: what a run finds of them on another machine."""

import logging
import shutil
import subprocess
from pathlib import Path

import fsspec
import pytest
import yaml
from planned_job import Job, config_of

from flops_fit.cli.main import main
from flops_fit.experiment.options import Resources
from flops_fit.files import read_json, write_json
from flops_fit.store.records import seal
from flops_fit.store.stopping import RETRY_STATUS

BITS = ("loss_curve", "final_loss", "final_loss_se", "tokens_seen", "steps_done", "status")


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A function that plans the job of a run with a URL for its checkpoints."""

    def start(url: str | None, **resources) -> Job:
        asked = {"checkpoint_store": url, "checkpoint_minutes": 1000, **resources}
        return Job(tmp_path, monkeypatch, resources=asked)

    return start


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict:
    """The outcome of the same run that nothing befell, without a store."""
    with pytest.MonkeyPatch.context() as patch:
        job = Job(tmp_path_factory.mktemp("whole"), patch)
        assert job() == 0
        return bits(job)


def bits(job: Job) -> dict:
    return {key: job.record()[key] for key in BITS}


def on_another_machine(job: Job) -> None:
    """Nothing of the run is on the disk."""
    shutil.rmtree(job.folder)


def names_in(url: str) -> list[str]:
    """The files of the only run in a store, by their names below its folder."""
    files, path = fsspec.core.url_to_fs(url)
    names = sorted(name.split(path.lstrip("/"))[1] for name in files.find(path))
    assert len({name.split("/")[1] for name in names}) <= 1
    return [name.split("/", 2)[2] for name in names]


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_stopped_run_continues_on_another_machine_with_the_same_bits(
    started, tmp_path, whole, kind
):
    url = f"{kind}://{tmp_path}/store"
    job = started(url)
    assert job("SIGTERM", step=5) == RETRY_STATUS
    assert "step-00000005/manifest.json" in names_in(url)
    on_another_machine(job)
    assert job("SIGTERM", step=4) == RETRY_STATUS
    on_another_machine(job)
    assert job() == 0
    assert job.record()["resumed_at_step"] == 9
    assert bits(job) == whole
    assert names_in(url) == ["record.json"]


def test_a_record_in_the_store_is_restored_and_not_trained_again(started, tmp_path, capfd):
    job = started(f"file://{tmp_path}/store")
    assert job() == 0
    record = (job.folder / "record.json").read_bytes()
    on_another_machine(job)
    result = job.folder / "result.json"
    line = ["train", "--spec", str(job.spec), "--out", str(result), "--results", str(job.results)]
    assert main(line) == 0
    assert "finished before; restored from its record" in capfd.readouterr().out
    assert (job.folder / "record.json").read_bytes() == result.read_bytes() == record


def test_only_the_two_newest_are_kept_and_only_whole_ones_count(started, tmp_path, whole):
    url = f"file://{tmp_path}/store"
    job = started(url, checkpoint_minutes=0)
    assert job("SIGTERM", step=6) == RETRY_STATUS
    (store,) = (tmp_path / "store").iterdir()
    assert [folder.name for folder in sorted(store.iterdir())] == ["step-00000005", "step-00000006"]
    (store / "step-00000006/manifest.json").unlink()  # killed while it was copied
    on_another_machine(job)
    assert job() == 0
    assert job.record()["resumed_at_step"] == 5
    assert bits(job) == whole


def truncate(checkpoint: Path) -> None:
    file = max((p for p in checkpoint.rglob("*.bin")), key=lambda p: p.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])


def of_another(checkpoint: Path) -> None:
    manifest = read_json(checkpoint / "manifest.json")
    del manifest["checksum"]
    write_json(checkpoint / "manifest.json", seal({**manifest, "hash": "f" * 64}))


def lose_a_file(checkpoint: Path) -> None:
    (checkpoint / "pytorch_model.bin").unlink()


@pytest.mark.parametrize("damage", [truncate, of_another, lose_a_file])
def test_what_is_damaged_there_is_named_and_an_older_one_used(
    started, tmp_path, whole, caplog, damage
):
    job = started(f"file://{tmp_path}/store", checkpoint_minutes=0)
    assert job("SIGTERM", step=6) == RETRY_STATUS
    (newest,) = (tmp_path / "store").glob("*/step-00000006")
    damage(newest)
    on_another_machine(job)
    with caplog.at_level(logging.WARNING, "flops_fit"):
        assert job() == 0
    assert f"{newest.parent.name}/step-00000006 is not used" in caplog.text
    assert job.record()["resumed_at_step"] == 5
    assert bits(job) == whole


def test_a_store_that_is_down_costs_a_warning_and_no_run(started, whole, caplog):
    url = "file:///proc/nowhere"  # where nobody can write
    job = started(url, checkpoint_minutes=0)
    with caplog.at_level(logging.WARNING, "flops_fit"):
        assert job("SIGTERM", step=3) == RETRY_STATUS
        assert job() == 0
    assert f"checkpoint store {url}/{job.id}" in caplog.text
    assert "the checkpoint step-00000003 was not copied there" in caplog.text
    assert "the record was not copied there" in caplog.text
    assert job.record()["resumed_at_step"] == 3  # from its own disk
    assert bits(job) == whole


def test_a_damaged_record_there_is_moved_aside_and_the_run_trained(started, tmp_path):
    job = started(f"file://{tmp_path}/store")
    assert job() == 0
    (record,) = (tmp_path / "store").glob("*/record.json")
    record.write_text(record.read_text().replace("completed", "diverged"))
    on_another_machine(job)
    done = subprocess.run(job.command(1), stderr=subprocess.PIPE, text=True, check=True)
    assert "its checksum does not match its content" in done.stderr
    assert job.record()["status"] == "completed"


def test_a_url_that_cannot_be_opened_ends_the_job_at_once(started, capsys):
    job = started("nosuch://bucket")
    assert job() == 2
    assert "resources.checkpoint_store: nosuch://bucket: Protocol" in capsys.readouterr().err


def test_the_lines_of_the_page_are_a_config():
    page = (Path(__file__).parents[2] / "docs/storage.md").read_text()
    lines = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    url = config_of("mine", "module", **lines)["resources"]["checkpoint_store"]
    assert url == "s3://BUCKET/checkpoints"


def test_specs_and_plans_without_a_store_are_written_as_before():
    assert "checkpoint_store" not in Resources().to_dict()
    assert Resources(checkpoint_store="s3://a").to_dict()["checkpoint_store"] == "s3://a"
