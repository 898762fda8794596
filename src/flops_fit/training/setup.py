"""What a run needs before its first step: seeds, the accelerator, and a line that says what runs."""

import os
from collections.abc import Callable
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

from flops_fit.constants import flops_6nd
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.options import TrainOptions
from flops_fit.notation import count_text
from flops_fit.plan.devices import device_name, matmul_format
from flops_fit.plan.schedule import phases


def seed_everything(options: TrainOptions) -> None:
    """Seed Python, NumPy and torch alike on every process; the one place where seeds are set."""
    set_seed(options.seed)
    if options.deterministic:  # read when cuBLAS starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(options.deterministic)


def new_accelerator(
    make: Callable[..., Accelerator], options: TrainOptions, checkpoint_folder: Path | None
) -> Accelerator:
    """This experiment's accelerator, made by ``make``; trackers write to ``logs`` beside checkpoints.

    Everything that accelerate would otherwise take from the environment is passed on purpose.
    Raises `FlopsFitError` for a precision or tracker that this machine does not offer.
    """
    # accelerate would keep the precision and compiler of the process's first experiment
    AcceleratorState._reset_state()
    logs = ProjectConfiguration(
        logging_dir=str(checkpoint_folder.parent / "logs") if checkpoint_folder else None
    )
    try:
        return make(
            mixed_precision=options.precision,
            # the number alone would give way to a variable of the environment
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


def progress_bar(name: str, options: TrainOptions, seen: int, accelerator: Accelerator) -> tqdm:
    """A bar over tokens, on the main process only."""
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
    per_item: float,
    flops_per_token: float,
    options: TrainOptions,
    accelerator: Accelerator,
) -> str:
    """What was derived for this run, in one line to be checked before it trains for hours.

    ``params`` is N, ``per_item`` the tokens of an item, ``flops_per_token`` as counted (0: unknown).
    """
    tokens, batch_tokens = options.tokens, round(options.batch_items * per_item)
    steps = -(-tokens // batch_tokens)
    spent = ", ".join(
        f"{count} {phase}" for phase, count in phases(steps, options.schedule).items()
    )
    counted = f" (counted: {flops_per_token * tokens:.3g})" if flops_per_token else ""
    world = accelerator.num_processes
    processes = "1 process" if world == 1 else f"{world} processes"
    return (
        f"{name}: {type(getattr(model, '_orig_mod', model)).__name__} with N = {count_text(params)}, "
        f"D = {count_text(tokens)} (D/N = {count_text(tokens / params)}); "
        f"{steps} steps ({spent}) of {options.batch_items} items = {batch_tokens:,} tokens, "
        f"peak learning rate {options.learning_rate:.3g}; "
        f"6 N D = {flops_6nd(params, tokens):.3g} FLOPs{counted}; "
        f"{processes} on {device_name(accelerator.device)}, "
        f"{matmul_format(options.precision)}"
    )
