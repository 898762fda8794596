"""A run is what its spec says, whatever another launcher, shell or project left in the environment."""

import os
import subprocess
import sys

import pytest
from accelerate.utils import DistributedType
from planned_job import Job
from small_runs import run

from flops_fit.errors import FlopsFitError
from flops_fit.jobs.environment import clean_environment, cleaned
from flops_fit.training import checks

LEFT = {
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "ROLE_RANK": "1",
    "MASTER_ADDR": "10.255.255.1",
    "MASTER_PORT": "1",
    "FORK_LAUNCHED": "1",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "PMI_SIZE": "4",
    "PMI_RANK": "3",
    "PMIX_RANK": "3",
    "MV2_COMM_WORLD_SIZE": "4",
    "MPI_LOCALNRANKS": "4",
    "SLURM_PROCID": "3",
    "TORCHELASTIC_RUN_ID": "x",
    "TORCHELASTIC_ERROR_FILE": "/nowhere/x",
    "PET_NNODES": "2",
    "PET_RDZV_ENDPOINT": "10.255.255.1:1",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DYNAMO_BACKEND": "inductor",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "PARALLELISM_CONFIG_TP_SIZE": "2",
    "NVIDIA_TF32_OVERRIDE": "0",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
}
KEPT = {
    "ACCELERATE_USE_CPU": "true",
    "CUDA_VISIBLE_DEVICES": "0",
    "SLURM_JOB_ID": "7",
    "NCCL_DEBUG": "INFO",
    "PATH": "/bin",
    "MASTER_KEY": "k",
    "RANKING": "1",
    "MPI_HOME": "/opt/mpi",
    "HF_HOME": "h",
}
USERS_CONFIG = """\
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
mixed_precision: bf16
num_machines: 2
num_processes: 4
gpu_ids: 0
use_cpu: false
fsdp_config: {fsdp_version: 2, fsdp_auto_wrap_policy: NO_WRAP}
"""


def test_what_launchers_leave_goes_and_everything_else_stays():
    assert cleaned({**LEFT, **KEPT}) == KEPT


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_job_trains_the_same_run_whatever_it_inherits(tmp_path, monkeypatch, processes):
    planned = Job(tmp_path, monkeypatch)
    assert planned() == 0
    loss = planned.record()["final_loss"]
    (planned.folder / "record.json").unlink()
    (tmp_path / "hub" / "accelerate").mkdir(parents=True)
    (tmp_path / "hub" / "accelerate" / "default_config.yaml").write_text(USERS_CONFIG)
    note, shell = tmp_path / "hash.txt", {"PYTHONHASHSEED": "7", "EVENT": "hash", "STEP": "1"}
    subprocess.run(
        planned.command(processes),
        env={
            **os.environ,
            **LEFT,
            **shell,
            "HASH_FILE": str(note),
            "HF_HOME": str(tmp_path / "hub"),
        },
        check=True,
        timeout=600,
    )
    fixed = subprocess.run(
        [sys.executable, "-c", "print(hash('a'), end='')"],
        env={"PYTHONHASHSEED": "0"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert note.read_text() == fixed.stdout  # the order of a set of strings, in every process
    assert planned.record()["processes"] == processes
    assert planned.record()["final_loss"] == pytest.approx(loss, rel=0 if processes == 1 else 1e-5)


def test_the_library_trains_the_same_run_under_stray_variables(monkeypatch):
    before = run(4)["final_loss"]
    for name in (
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
        "ACCELERATE_DYNAMO_BACKEND",
        "ACCELERATE_MIXED_PRECISION",
    ):
        monkeypatch.setenv(name, LEFT[name])
    assert run(4)["final_loss"] == before


def test_a_launcher_that_shards_the_model_is_refused_in_words(monkeypatch):
    monkeypatch.setattr(checks, "SHARDING", {DistributedType.NO})
    with pytest.raises(
        FlopsFitError, match=r"launched with NO; .* in which every process holds the whole"
    ):
        run(4)


def test_a_block_with_a_clean_environment_gives_the_old_one_back(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    before = dict(os.environ)
    with clean_environment(ADDED="1"):
        assert "RANK" not in os.environ
        assert os.environ["ADDED"] == "1"
    assert dict(os.environ) == before
