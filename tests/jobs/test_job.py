"""One job: its exit status, what it leaves behind, and who may work on a run at a time."""

import json
import signal
import threading

import pytest
from planned_job import Job

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.spec import read_spec
from flops_fit.experiment.used import changed_late, other_late
from flops_fit.jobs.job import is_out_of_memory
from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.uses import Uses
from flops_fit.store.locks import run_lock
from flops_fit.store.records import note_failure, read_failure, restore_run
from flops_fit.store.stopping import RETRY_STATUS, Stopped, StopRequest


@pytest.fixture
def planned(tmp_path, monkeypatch):
    return Job(tmp_path, monkeypatch)


def test_a_finished_job_leaves_its_record_the_copy_and_nothing_else(planned):
    assert planned() == 0
    assert planned.left() == {"record.json", "result.json", ".lock"}
    assert planned.record()["status"] == "completed"
    assert (planned.folder / "result.json").read_bytes() == (
        planned.folder / "record.json"
    ).read_bytes()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_stop_signal_saves_and_ends_with_the_status_for_a_retry(planned, name, capsys):
    assert planned(name) == RETRY_STATUS == 75
    assert f"stopped on {name} at step" in capsys.readouterr().err
    assert planned.left() == {"checkpoints", ".lock"}
    assert planned() == 0
    assert planned.record()["resumed_at_step"] > 1
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # handlers are given back


def test_a_stop_signal_during_the_evaluation_comes_too_late_to_matter(planned):
    planned()
    whole = planned.record()
    (planned.folder / "record.json").unlink()
    assert planned("SIGTERM", step=whole["steps_done"] + 1) == 0
    assert planned.record()["final_loss"] == whole["final_loss"]
    assert planned.left() == {"record.json", "result.json", ".lock"}


def test_a_loss_that_is_not_finite_is_a_result_and_no_failure(planned):
    assert planned("nan") == 0
    record = planned.record()
    assert record["status"] == "diverged"
    assert "is not finite; last good loss: 1." in record["reason"]
    assert planned.left() == {"record.json", "result.json", ".lock"}


def test_running_out_of_memory_leaves_the_advice(planned):
    with pytest.raises(RuntimeError, match="out of memory"):
        planned("memory")
    failure = json.loads((planned.folder / "failure.json").read_text())
    assert failure["experiment_id"] == planned.id
    assert "micro_batch_items" in failure["reason"]
    assert "activation_checkpointing" in failure["reason"]


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",
        "HIP error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "NCCL Error 1: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'",
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_memory_that_a_library_lacks_is_known_by_its_message(text):
    assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError(text.replace("memory", "luck").replace("ALLOC", "X")))


def test_a_file_that_only_the_job_opens_is_recorded_said_and_watched_from_then_on(planned, capsys):
    late, results = planned.folder.parents[2] / "late.txt", planned.folder.parents[1]
    late.write_text("one")
    assert planned("late") == 0
    assert "used by the run, but not by the plan: late.txt" in capsys.readouterr().err
    (entry,) = planned.record()["late"].items()
    assert entry[0] == "late.txt"
    code = read_spec(planned.spec).recipe.references
    hashes = FileHashes(results / "hashes.json")
    assert changed_late(results, code, hashes) == Uses()
    late.write_text("two")
    assert changed_late(results, code, hashes).files == {"late.txt": str(late)}
    assert other_late(planned.record()["late"], [str(late.parent)]) == ["late.txt"]


def test_a_failure_is_kept_until_a_later_try_succeeds(planned):
    with pytest.raises(ZeroDivisionError):
        planned("bug")
    assert "ZeroDivisionError: a bug of mine" in (planned.folder / "failure.json").read_text()
    assert planned() == 0
    assert planned.left() == {"record.json", "result.json", ".lock"}


def test_the_first_of_several_processes_to_fail_gives_the_reason(tmp_path):
    assert note_failure(tmp_path, "id", "hash", "out of memory")
    assert not note_failure(tmp_path, "id", "hash", "connection closed by peer")
    assert read_failure(tmp_path, "hash") == "out of memory"


def test_a_trainer_whose_launcher_is_gone_ends_before_it_trains(planned, capsys):
    planned.set("FLOPS_FIT_LAUNCHER", "1")
    assert planned() == RETRY_STATUS
    assert "the launcher (process 1) is gone" in capsys.readouterr().err
    assert not planned.folder.exists()


def test_a_record_that_is_there_is_copied_and_not_trained_again(planned):
    planned()
    before = (planned.folder / "record.json").stat()
    (planned.folder / "result.json").unlink()
    (planned.folder / "checkpoints").mkdir()  # as a kill between record and result leaves it
    (planned.folder / ".result.json.half").write_text("{")
    assert planned("bug") == 0
    assert planned.left() == {"record.json", "result.json", ".lock"}
    after = (planned.folder / "record.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_broken_record_is_named_moved_aside_and_trained_again(planned, capsys):
    planned()
    whole = planned.record()
    text = (planned.folder / "record.json").read_text()
    (planned.folder / "record.json").write_text(text.replace("completed", "completes"))
    assert planned() == 0
    said = capsys.readouterr().err
    assert "record.json: its checksum does not match its content; moved to" in said
    assert planned.record()["final_loss"] == whole["final_loss"]
    assert "record.json.corrupt" in planned.left()


def test_a_trainer_waits_for_the_one_at_work_and_can_be_stopped_meanwhile(tmp_path, capsys):
    stop = StopRequest()
    with run_lock(tmp_path):
        threading.Timer(0.3, setattr, (stop, "signal", "SIGTERM")).start()
        with (
            pytest.raises(Stopped, match="stopped on SIGTERM while waiting"),
            run_lock(tmp_path, stop),
        ):
            pytest.fail("two trainers at a time")
    assert "another trainer is at work; waiting" in capsys.readouterr().err
    with run_lock(tmp_path, stop):  # free again
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file in the way")
    with pytest.raises(FlopsFitError, match=r"runs/id: cannot be written \(Not a directory\)"):
        run_lock(tmp_path / "runs" / "id").__enter__()


def test_a_result_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "record.json").write_text("{}")
    (tmp_path / "out").write_text("a file in the way")
    with pytest.raises(FlopsFitError, match=r"out/result.json: cannot be written"):
        restore_run(tmp_path, tmp_path / "out" / "result.json")
