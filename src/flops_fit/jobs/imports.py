"""Import what every run imports, without the garbage collector, which would search all of it often.

Importing torch makes hundreds of thousands of objects that stay. Python's collector looks through them
again and again while they are made, which took a quarter of the CPU time of these imports.
"""

import contextlib
import gc
import importlib

# What a run imports sooner or later. Missing ones are imported where they are needed.
IMPORTS = (
    "flops_fit.jobs.job",
    "flops_fit.trainer",
    "flops_fit.experiment.build",
    "flops_fit.training.prepare",
    "flops_fit.training.record",
    "accelerate.commands.launch",
    "torch._dynamo",
    "torch._inductor.config",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
)


def import_all() -> None:
    """Import `IMPORTS`; what is there then is never searched by the collector, also not in a fork."""
    gc.disable()
    try:
        for name in IMPORTS:
            with contextlib.suppress(ModuleNotFoundError):  # of another version of torch
                importlib.import_module(name)
    finally:
        gc.freeze()  # a fork would copy the memory that the collector touches
        gc.enable()
