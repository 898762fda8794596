"""What a step of the workflow runs, as a fingerprint: its rule reruns when that code changes."""

import hashlib
from collections.abc import Iterable

from flops_fit.experiment.places import plan_folder
from flops_fit.files import canonical_hash
from flops_fit.plan.cache import SOURCES
from flops_fit.plugins.code import import_closure, remembered_sources
from flops_fit.plugins.origin import OWN_FOLDER
from flops_fit.workflow import RESULTS

# Packages whose code makes no step stale: a run's id and the trainer's version cover what they do.
# The module that merges the records has a rule of its own, and makes that rule stale.
LEFT_TO_IDS = ("flops_fit.training.", "flops_fit.jobs.", "flops_fit.store.")
MERGING = "flops_fit.store.collect"


def code(verb: str) -> str:
    """Fingerprint of all code that a ``verb`` of the command line runs; its rule reruns on a change."""
    with remembered_sources(plan_folder(RESULTS) / SOURCES):
        modules = code_of_verb(verb)
    return canonical_hash([modules, data_files_of(modules)])[:16]


def code_of_verb(verb: str) -> dict[str, str]:
    """Module -> digest of its source, for all modules that a ``verb`` of the command line imports."""

    def left_to_ids(module: str) -> bool:
        return module.startswith(LEFT_TO_IDS) and not (module == MERGING and verb == "collect")

    return import_closure(f"flops_fit.cli.{verb}", left_to_ids)


def data_files_of(modules: Iterable[str]) -> dict[str, str]:
    """File -> SHA-256 of the templates, style sheets and tables in the packages of ``modules``."""
    rooms = {name.split(".")[1] for name in modules if name.count(".") > 1}
    return {
        f"{room}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for room in sorted(rooms)
        for path in sorted((OWN_FOLDER / room).iterdir())
        if path.is_file() and path.suffix != ".py"
    }
