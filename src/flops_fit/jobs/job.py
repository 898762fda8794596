"""One process of the job of an experiment: read the spec, train, write the record.

`flops_fit.jobs.launch` starts it by ``accelerate launch -m flops_fit.jobs.job SPEC RESULT ROOT AFTER``.
"""

import contextlib
import logging
import os
import re
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.options import TrainOptions, part_of_batch
from flops_fit.experiment.places import hashes_file, run_folder, trunk_folder
from flops_fit.experiment.recipe import PluginRecipe
from flops_fit.experiment.spec import Spec, options_of, read_spec
from flops_fit.experiment.used import late_sentences, late_uses, note_late
from flops_fit.jobs.killed import AT_WORK, LOST
from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.watch import Watch, watching
from flops_fit.store.locks import run_lock
from flops_fit.store.records import (
    CHECKPOINTS,
    FAILURE,
    finish_run,
    finished_before,
    note_failure,
    restore_run,
)
from flops_fit.store.remote import remote_of
from flops_fit.store.stopping import LAUNCHER, RETRY_STATUS, Stopped, StopRequest, stop_with_parent

if TYPE_CHECKING:
    from torch import nn

    from flops_fit.training.trunk import Trunk

BACKEND_ERROR = re.compile(
    r"gloo|NCCL|ProcessGroup|Connection (closed|reset) by peer|Broken pipe", re.IGNORECASE
)
OUT_OF_MEMORY = (
    "out of memory; set resources.micro_batch_items (gradients are then accumulated, and the result "
    "stays the same) or resources.activation_checkpointing, request more memory, or lower "
    "resources.runs_per_gpu where runs share a GPU, or evaluation.batch_items after the last step"
)
# How torch reports memory that CUDA, ROCm and their libraries could not allocate themselves
OF_LIBRARIES = re.compile(
    r"can't allocate memory|(CUDA|HIP) error: out of memory|BLAS_STATUS_ALLOC_FAILED"
    r"|CUDNN_STATUS_ALLOC_FAILED|CUDA out of memory|Cuda failure\b.*out of memory"
)


def main(arguments: list[str]) -> int:
    """Train the experiment of a spec file and return the exit status.

    ``arguments`` are the path of the spec, the path of the result, the folder of all results, and the
    id of the run that was trained before it on its trunk (empty, or absent: none).
    The status is 0 for a finished run (diverged included), 2 for bad input, 75 for a run that was
    stopped on request and saved (the workflow's retry resumes it), and 1 for anything else.
    """
    logging.basicConfig(format="flops-fit: %(message)s")
    logging.getLogger("flops_fit").setLevel(logging.INFO)
    spec_path, result, results, *after = arguments
    stop = StopRequest()
    with stop.listening():
        spec = read_spec(spec_path)
        return run(spec, results, result, stop, "".join(after))


def run(spec: Spec, results: str, result: str, stop: StopRequest, after: str = "") -> int:
    """Train ``spec`` in its folder below ``results``, which the main process locks.

    A copy of the record goes to ``result``; ``stop`` holds a request to stop; ``after`` as in `main`.
    Returns the exit status of `main`.
    """
    folder = run_folder(results, spec.experiment_id)
    main_process = int(os.environ.get("RANK", 0)) == 0
    id_and_hash = spec.experiment_id, spec.hash
    with contextlib.ExitStack() as held:
        try:
            stop_with_parent(int(os.environ.get(LAUNCHER, os.getppid())))
            if main_process:
                held.enter_context(run_lock(folder, stop))
                if finished_before(folder, *id_and_hash):  # by another job, while this one started
                    restore_run(folder, result)
                    return 0 if int(os.environ.get("WORLD_SIZE", 1)) == 1 else RETRY_STATUS
                (folder / FAILURE).unlink(missing_ok=True)
                (folder / AT_WORK).touch()
                held.callback((folder / AT_WORK).unlink, missing_ok=True)
                stop.before_exit.append(lambda: (folder / AT_WORK).unlink(missing_ok=True))
            record = train_spec(spec, results, stop, after)
            if main_process:
                finish_run(folder, record, result)
                remote = remote_of(spec.resources.checkpoint_store, *id_and_hash)
                if remote:
                    remote.finish(folder)
            return 0
        except Stopped as stopped:
            print(f"flops-fit: {stopped}; a retry will resume it", file=sys.stderr)
            return RETRY_STATUS
        except FlopsFitError as error:
            if note_failure(folder, *id_and_hash, str(error)):
                print(f"flops-fit: {spec.experiment_id}: {error}", file=sys.stderr)
            return 2
        except Exception as error:
            if has_lost_another(error):
                if note_failure(folder, *id_and_hash, LOST):
                    print(f"flops-fit: {spec.experiment_id}: {LOST}", file=sys.stderr)
                return 1
            kind = f"{type(error).__name__}: {error}"
            note_failure(folder, *id_and_hash, OUT_OF_MEMORY if is_out_of_memory(error) else kind)
            raise


def has_lost_another(error: Exception) -> bool:
    """Whether ``error`` comes from the backend (gloo, NCCL) because another process ended."""
    import torch

    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or is_out_of_memory(error):
        return False
    backend = isinstance(error, torch.distributed.DistError)
    return backend or bool(BACKEND_ERROR.search(str(error)))


def is_out_of_memory(error: Exception) -> bool:
    """Whether ``error`` means that the CPU or the GPU has no memory left."""
    import torch

    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or bool(OF_LIBRARIES.search(str(error)))


def train_spec(
    spec: Spec, results: str | Path, stop: StopRequest, after: str = ""
) -> dict[str, Any]:
    """Build the parts of ``spec``, train it below ``results``, and return its record, not yet sealed.

    A request in ``stop`` is noticed between two steps; ``after`` as in `main`. Raises
    `FlopsFitError` where something changed since the plan was made.
    """
    from flops_fit.jobs.imports import import_all

    import_all()
    from flops_fit.experiment.build import (
        load_loss,
        load_metrics,
        make_model,
        make_optimizer,
        seen_data,
    )
    from flops_fit.model_factory import batch_norms
    from flops_fit.plugins.resolve import add_search_paths
    from flops_fit.trainer import train
    from flops_fit.training.prepare import check_prepared
    from flops_fit.training.record import Record

    recipe = spec.plugins
    add_search_paths(spec.search_paths)
    hashes = FileHashes(hashes_file(results))
    changed = spec.changed(hashes)
    if changed:
        raise FlopsFitError(f"{', '.join(changed)} changed since the plan was made; plan it again")
    if spec.data_dir is not None:
        check_prepared(spec.data_dir, hashes)
    hashes.save()
    options = options_of(
        spec,
        processes=int(os.environ["FLOPS_FIT_PROCESSES"]),
        gpus=int(os.environ["FLOPS_FIT_GPUS"]),
    )

    def build_model() -> "nn.Module":
        model = make_model(recipe)
        check_part(recipe, options, bool(batch_norms(model)))
        return model

    with watching(spec.search_paths, [results]) as watch:
        outcome = train(
            spec.experiment_id,
            build_model,
            seen_data(spec),
            load_loss(recipe.shared.loss.function),
            lambda model, rate: make_optimizer(recipe, model, rate),
            options,
            run_folder(results, spec.experiment_id) / CHECKPOINTS,
            spec.hash,
            stop,
            spec.count.flops_per_token,
            trunk_of(spec, results),
            load_metrics(spec),
        )
    if recipe.trunk:
        outcome["after"] = after or None
    if recipe.unique_fraction is not None:
        outcome["unique_tokens"] = round(outcome["tokens_seen"] / outcome["epochs"])
    record = Record(
        spec.experiment_id, spec.hash, recipe.to_dict(), spec.count, spec.tokens_per_item, outcome
    )
    return {**record.to_dict(), **spent(), **used_late(spec, watch, results, hashes)}


def spent() -> dict[str, float]:
    """What this process and its children that have ended used since it started, for its record."""
    process, children = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "cpu_seconds": sum(u.ru_utime + u.ru_stime for u in (process, children)),
        "peak_memory_bytes": process.ru_maxrss * unit,
    }


def check_part(recipe: PluginRecipe, options: TrainOptions, normalises: bool) -> None:
    """Check that a model that ``normalises`` over a batch gets the parts of it that ``recipe`` has.

    ``options`` are those of the job. Raises `FlopsFitError` where they split a batch otherwise.
    """
    part = part_of_batch(options.largest_batch, options.processes or 1, options.micro_batch_items)
    if normalises and part != recipe.part_items:
        planned, here = (n or options.batch_items for n in (recipe.part_items, part))
        raise FlopsFitError(
            f"--processes: {options.processes}: batch norm would see {here} items at once, where the "
            f"plan has {planned}; allowed: the processes of the plan, or a new plan with other "
            "resources.processes"
        )


def trunk_of(spec: Spec, results: str | Path) -> "Trunk | None":
    """Return where the run of ``spec`` finds and leaves states below ``results``, if it has a trunk."""
    from flops_fit.training.trunk import Trunk

    trunk = spec.plugins.trunk
    return Trunk(trunk_folder(results, trunk), trunk, spec.experiment_id) if trunk else None


def used_late(
    spec: Spec, watch: Watch, results: str | Path, hashes: FileHashes
) -> dict[str, dict[str, dict[str, str]]]:
    """Return the part of a record on modules and files that ``spec`` used but its plan does not have.

    ``watch`` observed the run. New uses are printed, and stored below ``results``, so that later
    plans include them; ``hashes`` caches the hashes of files.
    """
    if int(os.environ.get("RANK", 0)) != 0:
        return {}
    uses, more = late_uses(watch, spec)
    late = note_late(results, spec.recipe.references, uses, hashes)
    for sentence in late_sentences(late, more, "dataset.sources"):
        print(f"flops-fit: {spec.experiment_id}: {sentence}", file=sys.stderr)
    return {"late": late} if late else {}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
