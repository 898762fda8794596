"""The environment of a run, without the settings that other launchers left in it.

accelerate and torch read settings from environment variables (gradient accumulation, FSDP, a rank,
the address of another process, the number format of products) and from a file in the user's home. A
shell, an MPI launcher or another project may have set them, but a run must follow its spec alone.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from importlib import resources

from flops_fit.jobs.gpu_locks import USE_CPU

# Variables in which `accelerate launch`, torchrun (which also reads each of its options from PET_*),
# the launchers of MPI and srun give a process its rank, or settings of the training; and those by
# which NVIDIA's libraries and torch compute products in TF32, or never.
LEFT_BY_OTHERS = re.compile(
    r"(LOCAL_|GROUP_|ROLE_|NODE_)?RANK|(LOCAL_|GROUP_|ROLE_)?WORLD_SIZE|ROLE_NAME|MASTER_(ADDR|PORT)"
    r"|NPROC|FORK_LAUNCHED|SLURM_(PROCID|LOCALID|NODEID|GTIDS|STEP_\w+)|MPI_LOCAL\w+"
    r"|NVIDIA_TF32_OVERRIDE|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"
    r"|(ACCELERATE|FSDP|DEEPSPEED|MEGATRON_LM|PARALLELISM_CONFIG|TORCHELASTIC|PET"
    r"|OMPI|PMI|PMIX|MV2|MPIRUN|HYDRA|PALS|JSM)_\w+"
)


def job_environment(environment: Mapping[str, str], threads: int) -> dict[str, str]:
    """``environment`` as a job with this many ``threads`` of each process gets it."""
    return {
        **cleaned(environment),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONHASHSEED": "0",  # sets of strings in one order, in every process and attempt
    }


def accelerate_config() -> str:
    """Return the path of the file that `accelerate launch` reads instead of the user's file."""
    return str(resources.files("flops_fit.jobs") / "accelerate.yaml")


def cleaned(environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``environment`` without the variables of launchers and those on TF32.

    ``ACCELERATE_USE_CPU`` stays, because users set it to train on the CPU.
    """
    return {
        name: value
        for name, value in environment.items()
        if name == USE_CPU or not LEFT_BY_OTHERS.fullmatch(name)
    }


@contextlib.contextmanager
def clean_environment(**added: str) -> Iterator[None]:
    """Within the block, replace the environment of this process by its `cleaned` form.

    ``added`` holds further variables.
    """
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update({**cleaned(before), **added})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
