"""The start of a run: seeds, the accelerator, a progress bar, and one line that describes the run."""

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DataLoaderConfiguration,
    GradientAccumulationPlugin,
    ProjectConfiguration,
    set_seed,
)
from torch import nn
from tqdm import tqdm

from flops_fit.batch import Batches
from flops_fit.constants import flops_6nd
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.options import TrainOptions
from flops_fit.notation import count_text
from flops_fit.plan.devices import device_name, matmul_format
from flops_fit.plan.schedule import phases


def seed_everything(options: TrainOptions) -> None:
    """Seed Python, NumPy and torch with the seed of ``options``, the same on every process."""
    set_seed(options.seed)
    if options.deterministic:  # cuBLAS reads this variable when it starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(options.deterministic)


def new_accelerator(
    make: Callable[..., Accelerator], options: TrainOptions, checkpoint_folder: Path | None
) -> Accelerator:
    """Return the accelerator of one experiment, made by ``make`` with the settings of ``options``.

    Trackers write to the folder ``logs`` next to ``checkpoint_folder``. All settings that accelerate
    would otherwise take from the environment are passed explicitly. Raises `FlopsFitError` for a
    precision or a tracker that is not available here.
    """
    # otherwise accelerate keeps the precision and compiler of the first experiment in the process
    AcceleratorState._reset_state()
    logs = ProjectConfiguration(
        logging_dir=str(checkpoint_folder.parent / "logs") if checkpoint_folder else None
    )
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    try:
        accelerator = make(
            mixed_precision=options.precision,
            # an environment variable would override the plain number
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            dataloader_config=DataLoaderConfiguration(even_batches=False, non_blocking=True),
            dynamo_backend="inductor" if options.compile else "no",
            log_with=options.log_with,
            project_config=logs,
        )
    except ValueError as error:
        raise FlopsFitError(
            f"precision: {options.precision}, log_with: {options.log_with}: {error}"
        ) from error
    if products.fp32_precision != before:
        # accelerate allows TF32 where it compiles in fp32 on a GPU, but compiling is only a resource
        products.allow_tf32 = False
        products.fp32_precision = before
    return accelerator


def forget_earlier_run(device: torch.device, options: TrainOptions) -> None:
    """Forget what an earlier run of this process left on ``device`` and in torch's compiler.

    The compiler counts the shapes of one class over all its models, and from the ninth on it would
    leave a model uncompiled in silence; ``options`` say whether the run compiles.
    """
    if options.compile:
        torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def device_memory(device: torch.device) -> dict[str, int]:
    """The most bytes that tensors of this run took on a GPU ``device``, for its record."""
    if device.type != "cuda":
        return {}
    return {"device_memory_bytes": torch.cuda.max_memory_allocated(device)}


def progress_bar(name: str, options: TrainOptions, seen: int, accelerator: Accelerator) -> tqdm:
    """Return a progress bar over the tokens of ``options``, ``seen`` of which are done.

    ``name`` stands in front of it. Only the main process of ``accelerator`` draws it.
    """
    return tqdm(
        total=options.tokens,
        initial=seen,
        desc=name,
        unit="tok",
        unit_scale=True,
        mininterval=2.0,
        disable=not (options.progress and accelerator.is_main_process),
    )


def run_line(
    name: str,
    model: nn.Module,
    params: int,
    items: int,
    flops_per_token: float,
    options: TrainOptions,
    accelerator: Accelerator,
) -> str:
    """Describe a run in one line, so that it can be checked before it trains for hours.

    ``name`` is the experiment's id, ``params`` the N of ``model``, ``items`` the items
    that it takes, and ``flops_per_token`` the counted FLOPs per token (0: unknown). ``options`` and
    ``accelerator`` give the rest.
    """
    tokens, batches = options.tokens, Batches(options.batch_items, options.batch_growth)
    steps = math.ceil(batches.steps(items))
    share_of_steps = partial(batches.share_of_steps, items=items)
    counts = phases(steps, options.schedule, tokens, share_of_steps)
    spent = ", ".join(f"{count} {phase}" for phase, count in counts.items())
    sizes = sorted({batches.first, batches.last})
    batch = " to ".join(map(str, sizes))
    batch_tokens = " to ".join(f"{round(size * tokens / items):,}" for size in sizes)
    counted = f" (counted: {flops_per_token * tokens:.3g})" if flops_per_token else ""
    world = accelerator.num_processes
    processes = "1 process" if world == 1 else f"{world} processes"
    return (
        f"{name}: {type(model).__name__} with N = {count_text(params)}, "
        f"D = {count_text(tokens)} (D/N = {count_text(tokens / params)}); "
        f"{steps} steps ({spent}) of {batch} items = {batch_tokens} tokens, "
        f"peak learning rate {options.learning_rate:.3g}; "
        f"6 N D = {flops_6nd(params, tokens):.3g} FLOPs{counted}; "
        f"{processes} on {device_name(accelerator.device)}, "
        f"{matmul_format(options.precision)}"
    )
