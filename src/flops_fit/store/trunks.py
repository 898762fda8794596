"""The states that runs of one trunk share, as they lie on disk: which are there, which may go."""

from collections.abc import Mapping
from pathlib import Path

from flops_fit.experiment.places import run_folder, state_tokens, trunk_folder, trunks_folder
from flops_fit.store.plan_file import PlanUse
from flops_fit.store.records import RECORD


def states_in(folder: Path) -> list[Path]:
    """The states in the ``folder`` of a trunk, the shortest first; other files there are ignored."""
    states = folder.glob("tokens-*")
    return sorted(state for state in states if state.name.removeprefix("tokens-").isdigit())


def states_of(results: str | Path, trunk: str) -> list[int]:
    """The tokens of the states of ``trunk``, a hash, that lie below ``results``; shortest first."""
    return [state_tokens(folder) for folder in states_in(trunk_folder(results, trunk))]


def spent_states(results: str | Path, sweeps: Mapping[str, PlanUse]) -> list[Path]:
    """The states below ``results`` that no planned run of the ``sweeps`` will start from.

    Every run that leaves its trunk there or later has a record. The last state of a trunk always stays:
    a larger budget starts from it.
    """
    waiting: dict[Path, int] = {}  # the furthest branch of a run without a record
    for plan in sweeps.values():
        for experiment, (trunk, tokens) in plan.branches.items():
            folder = trunk_folder(results, trunk)
            has_record = (run_folder(results, experiment) / RECORD).exists()
            waiting[folder] = max(waiting.get(folder, 0), 0 if has_record else tokens)
    return [
        state
        for folder, furthest in waiting.items()
        for state in states_in(folder)[:-1]
        if state_tokens(state) > furthest
    ]


def unused_trunks(results: str | Path, sweeps: Mapping[str, PlanUse]) -> list[Path]:
    """The folders of trunks below ``results`` that no plan of the ``sweeps`` has."""
    used = {trunk for plan in sweeps.values() for trunk, _ in plan.branches.values()}
    kept = {trunk_folder(results, trunk) for trunk in used}
    folders = sorted(trunks_folder(results).glob("[!.]*"))
    return [folder for folder in folders if folder.is_dir() and folder not in kept]
