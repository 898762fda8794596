"""Runs of one size and seed that share their first steps: who starts where, and what is left to do."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flops_fit.constants import TRUNK
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import run_folder
from flops_fit.experiment.plan import Branch, Plan
from flops_fit.files import read_json
from flops_fit.plan.schedule import cooldown_start
from flops_fit.store.records import RECORD, RESULT, read_record
from flops_fit.store.trunks import states_of
from flops_fit.sweep import Experiment


def has_trunks(config: Mapping[str, Any]) -> bool:
    """Whether runs of ``config`` that differ only in D share their first steps."""
    return config.get("schedule", {}).get("kind") == TRUNK


def branches_of(
    experiments: Sequence[Experiment], trunks: Sequence[str], schedule: Mapping[str, Any]
) -> dict[str, Branch]:
    """Where each of ``experiments`` leaves its trunk, by its id.

    ``trunks`` are the hashes of their first steps; ``schedule`` is that of the sweep. On each trunk a
    run starts where the next shorter one began its cooldown.
    """
    branches: dict[str, Branch] = {}
    last: dict[str, str] = {}
    pairs = zip(experiments, trunks, strict=True)
    for experiment, trunk in sorted(pairs, key=lambda pair: pair[0].num_tokens):
        after = last.get(trunk, "")
        branches[experiment.experiment_id] = Branch(
            trunk,
            _last_step_before(experiment, cooldown_start(experiment.num_tokens, schedule)),
            after,
            branches[after].tokens if after else 0,
        )
        last[trunk] = experiment.experiment_id
    return branches


def _last_step_before(experiment: Experiment, tokens: float) -> int:
    """The tokens at the end of the last step of ``experiment`` that goes no further than ``tokens``."""
    per_item = experiment.tokens_per_item
    return round(experiment.batches.floor(tokens / per_item) * per_item)


def before_on_trunk(branches: Mapping[str, Branch], without: Iterable[str]) -> dict[str, str]:
    """The id of the run that each run of ``branches`` is trained after, where there is one.

    Runs whose ids are in ``without`` are passed over: they failed, and the next shorter one counts.
    """
    left_out = set(without)
    before: dict[str, str] = {}
    for experiment, branch in branches.items():
        after = branch.after
        while after in left_out:
            after = branches[after].after
        if after:
            before[experiment] = after
    return before


def run_before(plan: Plan, failed: Iterable[str], results: str | Path, experiment: str) -> str:
    """The id of the run of the same trunk that ``experiment``, an id, is trained after, or "".

    A run that has a record below ``results`` stays after the run that the record names: a ``plan`` with
    more or with fewer budgets would otherwise list it again. Runs of the plan that ``failed`` are
    passed over.
    """
    record = run_folder(results, experiment) / RECORD
    if record.exists():
        with contextlib.suppress(FlopsFitError, AttributeError):
            named = read_json(record).get("after") or ""
            there = named in plan.branches or (run_folder(results, named) / RESULT).exists()
            return named if there else ""
    return before_on_trunk(plan.branches, failed).get(experiment, "")


def with_later(
    plan: Plan, failed: Iterable[str], results: str | Path, experiment: str
) -> list[str]:
    """``experiment``, an id, and the runs of its trunk in ``plan`` that wait for it.

    These have no result below ``results``; runs that ``failed`` are passed over.
    """
    later, last = [experiment], experiment
    before = before_on_trunk(plan.branches, failed)
    following = {earlier: after for after, earlier in before.items()}
    while last := following.get(last, ""):
        if not (run_folder(results, last) / RESULT).exists():
            later.append(last)
    return later


def flops_to_train(plan: Plan, results: str | Path) -> float:
    """FLOPs that are left of ``plan`` beside the records and the states below ``results``.

    A run without a record starts from the furthest state before its cooldown: one that is there, or
    one that a run of this plan will have left.
    """
    states: dict[str, list[int]] = {}
    flops = 0.0
    for experiment in sorted(plan.experiments, key=lambda e: e.num_tokens):
        if _has_record(experiment, results):
            continue
        branch, start = plan.branches.get(experiment.experiment_id), 0
        if branch is not None:
            there = states.setdefault(branch.trunk, states_of(results, branch.trunk))
            start = max((t for t in there if t <= branch.tokens), default=0)
            there.append(branch.tokens)
        whole = experiment.flops_counted or experiment.flops_6nd
        flops += whole * (1 - start / experiment.num_tokens)
    return flops


def _has_record(experiment: Experiment, results: str | Path) -> bool:
    path = run_folder(results, experiment.experiment_id) / RECORD
    try:
        read_record(path, experiment.experiment_id, experiment.hash)
    except FlopsFitError:
        return False
    return True
