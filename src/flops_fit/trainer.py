"""Train one experiment on exactly its D tokens, and return the outcome.

The function `train` reads from top to bottom: settings, data, model, optimiser, schedule, steps,
evaluation, outcome. The functions that it calls are in `flops_fit.training`.
"""

import itertools
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils._pytree import tree_map_only

from flops_fit.data import Data, as_data, bytes_per_token, first_item
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.build import Metric
from flops_fit.experiment.exact import Votes, last_micro_batch_syncs, target_elements, trim
from flops_fit.experiment.options import TrainOptions
from flops_fit.loss import on_device
from flops_fit.model_factory import call_model, enable_activation_checkpointing, num_params
from flops_fit.optimizer import adamw, as_one_optimizer, check_optimizer, switch_mode
from flops_fit.plan.devices import device_name, peak_flops
from flops_fit.plan.schedule import rate_factor
from flops_fit.store.remote import remote_of
from flops_fit.store.stopping import Stopped, StopRequest
from flops_fit.sweep import Experiment, SweepPlan
from flops_fit.training.batches import (
    BatchView,
    GlobalBatches,
    InputPositions,
    read_ahead,
    training_loader,
)
from flops_fit.training.checkpoint import START, Checkpoints
from flops_fit.training.checks import check_accelerator, check_amounts, check_partial_item
from flops_fit.training.curve import Curve
from flops_fit.training.evaluation import Evaluation
from flops_fit.training.local import Call, ResultsFile, is_main_process, options_for
from flops_fit.training.local_identity import TRUST, LocalIdentity, check_resume, train_missing
from flops_fit.training.outcome import status_of
from flops_fit.training.record import Record
from flops_fit.training.setup import (
    device_memory,
    forget_earlier_run,
    new_accelerator,
    progress_bar,
    run_line,
    seed_everything,
)
from flops_fit.training.trackers import Trackers
from flops_fit.training.trunk import Trunk, TrunkStates

log = logging.getLogger(__name__)


def train(
    name: str,
    build_model: Callable[[], nn.Module],
    data: Data,
    loss_fn: Callable,
    build_optimizer: Callable[[nn.Module, float], Any],
    options: TrainOptions,
    checkpoint_folder: Path | None = None,
    experiment_hash: str = "",
    stop: StopRequest | None = None,
    flops_per_token: float = 0.0,
    trunk: Trunk | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> dict:
    """Train the experiment ``name`` and return its outcome as plain data.

    ``build_model()`` returns the model and ``build_optimizer(model, learning_rate)`` one or several
    optimisers. ``data``, ``loss_fn`` and ``options`` are what the experiment is trained on and how.
    Checkpoints go to ``checkpoint_folder`` (None: none are saved) and carry ``experiment_hash``. A
    request in ``stop`` is noticed between two steps. ``flops_per_token``, the counted FLOPs, is
    only printed. A run with a ``trunk`` starts from a state of it, and leaves one there. ``metrics``
    are measured beside the held-out loss, and are named in the outcome where there are any.

    The outcome contains ``status`` (completed or diverged) and its ``reason``; ``final_loss`` on
    the held-out part (None if diverged) with its standard error; ``bits_per_byte`` where the
    dataset states its ``bytes_per_token``; ``loss_curve``, ``tokens_seen``, ``num_params``, times
    in seconds, ``tokens_per_second``, and ``peak_flops_per_second`` of the devices together. Raises
    `FlopsFitError` for input that cannot be trained as asked, and `Stopped` after a stop request.
    """
    started = time.perf_counter()
    seed_everything(options)
    accelerator = new_accelerator(Accelerator, options, checkpoint_folder)
    check_accelerator(accelerator, options)
    forget_earlier_run(accelerator.device, options)
    loss_fn = on_device(loss_fn, accelerator.device)

    # Data
    per_item = target_elements(first_item(data)[1], loss_fn)
    batches = GlobalBatches(
        data.unique_items,
        options.batch_items,
        options.expected_items or math.ceil(options.tokens / per_item),
        options.seed,
        accelerator.num_processes,
        options.micro_batch_items,
        growth=options.batch_growth,
    )
    check_amounts(options, batches)
    pinned = accelerator.device.type == "cuda"
    view = BatchView(data.train, data.collate, loss_fn, batches.total_items, options.max_epochs)
    dataloader = training_loader(view, batches, pinned, options.loader_workers)
    evaluate = Evaluation(accelerator, data, loss_fn, metrics or {}, options)

    # Model and optimiser
    model = build_model()
    if options.activation_checkpointing:
        enable_activation_checkpointing(model)
    if options.expected_items or options.tokens % per_item:
        check_partial_item(model, data, loss_fn, options.tokens, per_item)
    optimizer = as_one_optimizer(build_optimizer(model, options.learning_rate))
    check_optimizer(optimizer, model)
    model, optimizer, dataloader = accelerator.prepare(model, optimizer, dataloader)
    if accelerator.scaler is None:  # accelerate's wrapper searches for a package at each step
        optimizer = optimizer.optimizer
    # accelerate would else put the bare model into the compiled one, which then loses DDP's no_sync
    bare = accelerator.unwrap_model(model, keep_torch_compile=False)
    params = num_params(bare)
    torch.manual_seed(options.seed + accelerator.process_index)  # other dropout in each process

    # Schedule: not through `prepare`, which would step it once per process
    peaks = [group["lr"] for group in optimizer.param_groups]

    # The state of an earlier attempt
    checkpoints = Checkpoints(
        checkpoint_folder,
        experiment_hash,
        accelerator,
        options.checkpoint_minutes,
        remote_of(options.checkpoint_store, name, experiment_hash),
    )
    shared = TrunkStates(trunk, options, accelerator)
    saved = shared.restore(checkpoints.restore()) or START
    curve = Curve(**saved.get("curve", {}))
    step, position, seen = saved["step"], saved["position"], saved["seen"]
    batches.start = position

    loop_started, data_seconds, bad_step = time.perf_counter(), 0.0, None
    if accelerator.is_main_process:
        log.info(
            run_line(name, bare, params, batches.total_items, flops_per_token, options, accelerator)
        )
    trackers = Trackers(accelerator, name, options.log_with)
    inputs_seen = InputPositions(accelerator, saved["input_positions"])
    incoming, votes = read_ahead(dataloader), Votes(accelerator)
    model.train()
    switch_mode(optimizer, training=True)  # checkpoints contain these weights
    with progress_bar(name, options, seen, accelerator) as bar:
        while seen < options.tokens:
            asked = time.perf_counter()
            micro_batches = list(itertools.islice(incoming, batches.micro_batches(position)))
            data_seconds += time.perf_counter() - asked

            total, stopping, saving = votes.agree(micro_batches, bool(stop), checkpoints.due())
            if stopping or saving or shared.due(seen, total):
                bad_step = curve.flush(accelerator, force=True)
                if bad_step is not None:
                    break
                counters = {
                    "step": step,
                    "position": position,
                    "seen": seen,
                    "seconds": saved["seconds"] + time.perf_counter() - loop_started,
                    "curve": curve.state(),
                    "input_positions": inputs_seen.total(),
                }
                shared.save(counters, total)
                if stopping or saving:
                    checkpoints.save(counters | shared.counters())
                trackers.follow(curve)
                if stopping:
                    trackers.close()
                    cause = (stop and stop.signal) or "request"
                    raise Stopped(f"{name}: stopped on {cause} at step {step}")
            if total == 0:
                raise FlopsFitError(
                    f"dataset: the loss ignores all targets of the global batch of step {step + 1}; "
                    "allowed: batches with at least one target"
                )
            if seen + total > options.tokens:
                micro_batches = trim(
                    accelerator, model, loss_fn, micro_batches, position, options.tokens - seen
                )
                total = options.tokens - seen

            factor = rate_factor(seen + total / 2, options.tokens, options.schedule)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            share_of_loss: torch.Tensor | None = None
            for i, (inputs, targets, counts) in enumerate(micro_batches):
                last = i == len(micro_batches) - 1
                with last_micro_batch_syncs(accelerator, model, last):
                    # share of the global batch, so that uneven micro-batches are weighted exactly
                    share = int(counts.sum()) / total
                    if not share:
                        targets = tree_map_only(torch.Tensor, torch.zeros_like, targets)
                    loss = loss_fn(call_model(model, inputs), targets)
                    if share * accelerator.num_processes == 1.0:
                        accelerator.backward(loss)
                    else:  # DDP averages gradients over the processes
                        accelerator.backward(loss * (share * accelerator.num_processes))
                    weighted = loss.detach() if share == 1.0 else loss.detach() * share
                    share_of_loss = weighted if share_of_loss is None else share_of_loss + weighted
            if options.clip_norm is not None:
                accelerator.clip_grad_norm_(model.parameters(), options.clip_norm)
            optimizer.step()
            optimizer.zero_grad()

            inputs_seen.add(micro_batches)
            step, seen = step + 1, seen + total
            position += batches.step_items(position)
            assert share_of_loss is not None  # each step has a micro-batch
            curve.add(share_of_loss, seen, options.learning_rate * factor)
            bar.update(total)
            bad_step = curve.flush(accelerator)
            trackers.follow(curve)
            if bad_step is not None:
                break
    if bad_step is None:
        bad_step = curve.flush(accelerator, force=True)
    loop_seconds = time.perf_counter() - loop_started

    # Evaluation, after the schedule has ended
    scores = None
    if bad_step is None:
        switch_mode(optimizer, training=False)
        scores = evaluate(model)
    trackers.follow(curve)
    trackers.close(scores)
    outcome = {
        **status_of(curve, bad_step, scores, bytes_per_token(data.heldout)),
        "loss_curve": curve.until(bad_step if bad_step is not None else step).points(),
        "tokens_seen": seen,
        "steps_done": step,
        **shared.outcome(seen, inputs_seen.total()),
        "epochs": view.epochs(position),
        "num_params": params,
        "processes": accelerator.num_processes,
        "device": str(accelerator.device.type),
        "device_name": device_name(accelerator.device),
        **device_memory(accelerator.device),
        "peak_flops_per_second": accelerator.num_processes
        * peak_flops(accelerator.device, options.precision),
        "resumed_at_step": saved["step"],
        "wall_seconds": saved["seconds"] + time.perf_counter() - started,
        "start_up_seconds": loop_started - started,
        "train_seconds": saved["seconds"] + loop_seconds,
        "data_share": data_seconds / max(loop_seconds, 1e-9),
        "tokens_per_second": (seen - saved["seen"]) / max(loop_seconds, 1e-9),
    }
    votes.close()
    accelerator.free_memory()
    return outcome


class TrainingRunner:
    """Trains planned experiments with the model, data and loss of the caller.

    The way in which the script is started (``python script.py`` or ``accelerate launch script.py``)
    decides the number of processes; model and dataset need no changes for it. Results and
    checkpoints go to the folder ``output_dir``; only the process of rank 0 writes.
    """

    def __init__(self, output_dir: str | Path = "results/local"):
        self.output_dir = Path(output_dir)

    def _get_device(self) -> torch.device:
        """The device that training will use."""
        return Accelerator().device

    def _local_train(
        self,
        experiment: Experiment,
        model_cls: Callable[..., nn.Module],
        size_param: str,
        model_kwargs: dict | None,
        dataset_or_loader: Any,
        loss_fn: Callable,
        epochs: float | None = None,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        **train_options: Any,
    ) -> tuple[float, float, float]:
        """Train one experiment on exactly ``experiment.num_tokens`` tokens.

        ``epochs`` is the largest number of passes over the data (None: as many as needed);
        ``batch_size`` is the global batch in items, whatever the number of processes. Returns the
        held-out loss (NaN if the run diverged), ``6 * num_params * num_tokens`` FLOPs, and the wall
        time in seconds.
        """
        optimizer, data = train_options.pop("optimizer", adamw), as_data(dataset_or_loader)
        call = Call(model_cls, size_param, model_kwargs, data, loss_fn, optimizer)
        options = options_for(
            experiment, batch_size, learning_rate, max_epochs=epochs, **train_options
        )
        record = self._record(experiment, call, options)
        loss = record["final_loss"]
        return (math.nan if loss is None else loss), record["flops_6nd"], record["wall_seconds"]

    def _record(
        self,
        experiment: Experiment,
        call: Call,
        options: TrainOptions,
        identity: LocalIdentity | None = None,
        trust: bool = False,
    ) -> dict[str, Any]:
        """Train one experiment; with an identity, its checkpoints and its record are kept by it."""
        digest, described, folder = "", {}, None
        if identity is not None:
            digest = identity.hash(experiment.size_param_value, options)
            described, folder = identity.record(options), self._checkpoints(experiment)
        outcome = train(
            experiment.experiment_id,
            lambda: call.model(experiment.size_param_value),
            call.data,
            call.loss_fn,
            call.build_optimizer,
            options,
            folder,
            digest if identity is None or trust else identity.once(digest),
            flops_per_token=experiment.count.flops_per_token,
        )
        record = Record(
            experiment.experiment_id,
            digest,
            described,
            experiment.count,
            experiment.tokens_per_item,
            outcome,
        )
        return {**experiment.to_dict(), **record.to_dict()}

    def _checkpoints(self, experiment: Experiment) -> Path:
        return self.output_dir / "checkpoints" / experiment.experiment_id

    def run_sweep_from_plan(
        self,
        plan: SweepPlan,
        model_cls: Callable[..., nn.Module],
        size_param: str,
        model_kwargs: dict | None,
        dataset_or_loader: Any,
        loss_fn: Callable,
        resume: bool | str = True,
        identity: LocalIdentity | None = None,
        **train_options: Any,
    ) -> list[dict]:
        """Train every experiment of ``plan`` and return their records, in the order of the plan.

        The records are also written to ``results.json``. ``model_cls``, ``size_param``,
        ``model_kwargs``, ``dataset_or_loader`` and ``loss_fn`` are those of `find_optimal`.
        ``train_options`` are ``batch_size`` and ``learning_rate``, which replace those of the plan,
        ``optimizer``, and fields of `TrainOptions`.

        With ``resume``, an experiment is not trained again if its stored record has the same
        settings and the same content of model, data, loss and optimizer. A part that cannot be
        hashed, such as a lock or an open file, counts as changed and is named;
        ``resume="trust"`` assumes that it is unchanged, and also ignores a change of the Python
        version. ``identity`` describes these objects where it was computed before they were used.
        Raises `FlopsFitError` for input that cannot be trained as asked.
        """
        check_resume(resume)
        results, data = ResultsFile(self.output_dir), as_data(dataset_or_loader)
        optimizer = train_options.pop("optimizer", adamw)
        call = Call(model_cls, size_param, model_kwargs, data, loss_fn, optimizer)
        call.check_data(len(plan))
        identity = identity or LocalIdentity.of(call, self.output_dir)
        options = {"progress": False, **train_options}
        planned = [(e, options_for(e, **options)) for e in plan.experiments]
        call.check_parts(planned)

        def train_one(experiment: Experiment, options: TrainOptions) -> dict:
            record = self._record(experiment, call, options, identity, resume == TRUST)
            results.add(record)
            if is_main_process():
                shutil.rmtree(self._checkpoints(experiment), ignore_errors=True)
            return record

        try_out = partial(call.try_out, planned, identity.generators, train)
        return train_missing(planned, results, identity, resume, train_one, try_out)
