"""The environment that a run starts from: what other launchers left in it must not train the run.

accelerate and torch take settings from variables (gradient accumulation, FSDP, a rank, another
process to meet) and from a file in the user's home. A shell, an MPI start or another project may
have set them; a run is what its spec says.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from importlib import resources

from flops_fit.jobs.gpu_locks import USE_CPU

# What `accelerate launch`, torchrun (which also reads each of its options from PET_*), MPI's
# launchers and srun tell a process about its place among others, or how to train.
LEFT_BY_LAUNCHERS = re.compile(
    r"(LOCAL_|GROUP_|ROLE_|NODE_)?RANK|(LOCAL_|GROUP_|ROLE_)?WORLD_SIZE|ROLE_NAME|MASTER_(ADDR|PORT)"
    r"|NPROC|FORK_LAUNCHED|SLURM_(PROCID|LOCALID|NODEID|GTIDS|STEP_\w+)|MPI_LOCAL\w+"
    r"|(ACCELERATE|FSDP|DEEPSPEED|MEGATRON_LM|PARALLELISM_CONFIG|TORCHELASTIC|PET"
    r"|OMPI|PMI|PMIX|MV2|MPIRUN|HYDRA|PALS|JSM)_\w+"
)


def accelerate_config() -> str:
    """The file that `accelerate launch` reads in place of the user's own."""
    return str(resources.files("flops_fit.jobs") / "accelerate.yaml")


def cleaned(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without what launchers left, except ``ACCELERATE_USE_CPU``, a switch of ours."""
    return {
        name: value
        for name, value in environment.items()
        if name == USE_CPU or not LEFT_BY_LAUNCHERS.fullmatch(name)
    }


@contextlib.contextmanager
def clean_environment(**added: str) -> Iterator[None]:
    """Let this process see its environment `cleaned`, with ``added`` variables, within a block."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update({**cleaned(before), **added})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
