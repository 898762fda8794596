"""``flops-fit next --compare``: configs with the additional runs that settle a comparison."""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flops_fit.cli.arguments import run_command
from flops_fit.cli.at_work import at_work

if TYPE_CHECKING:
    from flops_fit.comparison.result import Row
    from flops_fit.experiment.plan import Plan
    from flops_fit.fit.result import Fit
    from flops_fit.rounds.grid import Grid
    from flops_fit.rounds.settle import Actions, Proposal, Question


# What is not expected of runs that bracket minima
NOT_EXPECTED = dict.fromkeys(("target_flops", "multiplier", "before", "after"))


@dataclass(frozen=True, eq=False)
class _Side:
    """One arm: its name in the comparison, the file and content of its config, its sweep and its fit."""

    name: str
    file: str
    config: dict
    plan: "Plan"
    grid: "Grid"
    fit: "Fit"


def settle(args: argparse.Namespace) -> dict[str, Any]:
    """Propose runs for the arms of the comparison that ``args`` name, and write their configs.

    Returns what ``flops-fit next --compare --json`` prints, as plain data. Raises `FlopsFitError` where
    no runs would settle it.
    """
    from flops_fit.comparison.sentences import factor
    from flops_fit.errors import FlopsFitError
    from flops_fit.notation import flops_text
    from flops_fit.plan.cache import search_paths
    from flops_fit.rounds.next import merged, repairs
    from flops_fit.rounds.settle import enough, proposals

    paths = search_paths(args.search_path)
    with at_work(args, "planning both sweeps"):
        raw, sides = _sides(args, paths)
    fixes = [repairs(side.fit, side.grid) for side in sides]
    if any(fixes):
        if args.take is not None:
            raise FlopsFitError(f"--take: {args.take}; there is no list to choose from")
        for side, actions in zip(sides, fixes, strict=True):
            for action in actions:
                print(f"{side.name}: {action.why}:\n  add {action.text}")
        reference, candidate = (merged(actions) if actions else None for actions in fixes)
        return {**_write(args, paths, raw, sides, (reference, candidate), []), **NOT_EXPECTED}
    row, question = _question(args, sides)
    most = args.max_flops or sum(float(side.grid.design["flops"].sum()) for side in sides)
    assert row.multiplier is not None
    with at_work(args, "looking for runs"):
        steps = proposals(question, most)
        chosen = enough(steps, question, math.log(row.multiplier))
    _print_steps(steps, row, question, chosen)
    if args.take is not None:
        if not 1 <= args.take <= len(steps):
            raise FlopsFitError(f"--take: {args.take}; allowed: 1 to {len(steps)}")
        chosen = steps[args.take - 1]
    if chosen is None:
        raise FlopsFitError(
            f"--max-flops: no runs of {flops_text(most)} FLOPs in all narrow the interval of M by 5%; "
            "allow more, or choose from the list with --take"
        )
    shown = chosen.shows(math.log(row.multiplier))
    before, after = (_reach(question, sd) for sd in (question.sd, chosen.sd))
    head = [
        f"expected at {flops_text(row.flops)} FLOPs: M within a factor of {before:.3f} now, {after:.3f} "
        f"after; M = {factor(row.multiplier)} would then be shown with a probability of {shown:.0%}"
    ]
    written = _write(args, paths, raw, sides, chosen.actions, head)
    return {
        **written,
        "target_flops": row.flops,
        "multiplier": row.multiplier,
        "before": {"multiplier_ratio": before**2},
        "after": {"multiplier_ratio": after**2, "shown": shown},
    }


def _sides(args: argparse.Namespace, paths: list[str]) -> tuple[dict, list[_Side]]:
    """The comparison's config as written, and its two arms."""
    import yaml

    from flops_fit.config.arms import arm_configs
    from flops_fit.config.load import load_comparison
    from flops_fit.errors import FlopsFitError
    from flops_fit.experiment.places import sweep_folder
    from flops_fit.fit.result import read_fit
    from flops_fit.plugins.data_files import find_path
    from flops_fit.rounds.grid import grid_config, planned_grid

    config = load_comparison(args.compare)
    compared = config["compare"]
    arms = arm_configs(config, paths)
    if len(arms) != 2 or compared["candidate"] is None:
        raise FlopsFitError(
            f"{args.compare}: compare: {len(arms)} arms; allowed: a reference and one candidate"
        )
    sides = []
    for name, key in zip(arms, ("reference", "candidate"), strict=True):
        file = compared[key]
        arm = grid_config(str(find_path(file, paths)))
        fit = read_fit(sweep_folder(args.results, arm["name"]) / "fit.json")
        plan, grid = planned_grid(arm, fit, args.results, paths)
        sides.append(_Side(name, file, arm, plan, grid, fit))
    return yaml.safe_load(Path(args.compare).read_text()), sides


def _question(args: argparse.Namespace, sides: list[_Side]) -> "tuple[Row, Question]":
    """What the comparison says at the C to settle, printed, and what new runs would change of it."""
    import numpy as np
    from scipy.special import ndtri

    from flops_fit.comparison.core import compare_fits
    from flops_fit.comparison.judge import CANNOT_TELL, NO_DIFFERENCE
    from flops_fit.comparison.models import models_of
    from flops_fit.comparison.pairs import Arm, joint_draws
    from flops_fit.comparison.sentences import row_text
    from flops_fit.errors import FlopsFitError
    from flops_fit.fit.verdict import ROUNDED
    from flops_fit.notation import flops_text
    from flops_fit.rounds.settle import question_of

    first, second = sides
    asked = [args.flops] if args.flops else None
    names = first.name, second.name
    with at_work(args, "comparing the fits"):
        comparison = compare_fits(first.fit, second.fit, asked, names)
    inside = [row for row in comparison.rows if row.beyond_data <= ROUNDED]
    row = (inside or comparison.rows)[-1]
    print(row_text(row, names, comparison.level))
    if row.verdict == CANNOT_TELL or row.ci is None:
        raise FlopsFitError(
            f"{args.compare}: {'; '.join(row.reasons)}; allowed: a comparison that more runs can settle "
            "(where an arm is not identifiable, first the runs that `flops-fit next --fit` proposes)"
        )
    if row.verdict != NO_DIFFERENCE and args.take is None:
        raise FlopsFitError(
            f"{args.compare}: {second.name} is {row.verdict} at {flops_text(row.flops)} FLOPs already; "
            "allowed: another --flops, or --take K to narrow M all the same"
        )
    arms = Arm.of(first.name, first.fit), Arm.of(second.name, second.fit)
    resamples = min(side.fit.bootstrap.resamples for side in sides)
    draws = joint_draws(*arms, resamples, np.random.default_rng(0))
    sd = math.log(row.ci[1] / row.ci[0]) / (2 * float(ndtri((1 + comparison.level) / 2)))
    grids = first.grid, second.grid
    return row, question_of(arms, grids, models_of(*arms, draws), row.flops, sd)


def _print_steps(
    steps: "list[Proposal]", row: "Row", question: "Question", chosen: "Proposal | None"
) -> None:
    """The list of rounds, each with all runs of those above it."""
    from flops_fit.comparison.sentences import factor
    from flops_fit.notation import flops_text

    assert row.multiplier is not None
    print(f"     {'FLOPs':>9} {'runs':>5} {'M within':>9} {'shown':>6}   adds")
    for k, step in enumerate(steps, 1):
        mark = "*" if step is chosen else " "
        print(
            f"{mark} {k:>2} {flops_text(step.flops):>9} {step.runs:5d} "
            f"{f'x{_reach(question, step.sd):.3f}':>9} "
            f"{step.shows(math.log(row.multiplier)):6.0%}   {step.last}"
        )
    print(
        f"(every row holds those above it; M within x{_reach(question, question.sd):.3f} now; shown: "
        f"how probably M = {factor(row.multiplier)} would be called better or worse; *: proposed)"
    )


def _reach(question: "Question", sd: float) -> float:
    """Half of the interval of M, as a factor."""
    from scipy.special import ndtri

    level = question.arms[0].fit.bootstrap.level
    return math.exp(float(ndtri((1 + level) / 2)) * sd)


def _write(
    args: argparse.Namespace,
    paths: list[str],
    raw: dict,
    sides: list[_Side],
    actions: "Actions",
    head: list[str],
) -> dict[str, Any]:
    """Write the config of every arm that gets runs, and that of the comparison; returns which."""
    import yaml

    from flops_fit.files import write_atomic
    from flops_fit.notation import flops_text
    from flops_fit.plugins.data_files import find_path
    from flops_fit.rounds.grid import added_runs
    from flops_fit.rounds.next import config_text, grown, next_name

    name = args.name or next_name(raw["name"])
    out = Path(args.out or f"config/{name}.yaml")
    made = f"Made by `flops-fit next` from {args.compare}."
    files, texts, arms = dict(raw["compare"]), {}, []
    for key, side, action in zip(("reference", "candidate"), sides, actions, strict=True):
        if action is None:
            continue
        arm = next_name(side.config["name"])
        written = yaml.safe_load(Path(str(find_path(side.file, paths))).read_text())
        new = grown(written, side.config, side.grid, action, arm)
        with at_work(args, f"planning {arm}"):
            count, flops = added_runs(side.plan, new, args.results, paths, side.file)
        adds = (
            f"{side.name}: adds {count} runs, {flops_text(flops)} FLOPs, to the "
            f"{len(side.plan.experiments)} of {side.config['name']}"
        )
        print(adds)
        files[key] = str(out.with_name(f"{arm}.yaml"))
        texts[files[key]] = config_text(new, [made, adds, action.text])
        arms.append(
            {"name": side.name, "config": files[key], "added_runs": count, "added_flops": flops}
            | {"why": action.why, "adds": action.text}
        )
    texts[str(out)] = config_text({**raw, "name": name, "compare": files}, [made, *head])
    for file, text in texts.items():
        write_atomic(Path(file), text)
    wrote = f"wrote {', '.join(texts)}; run it with: {run_command(out)}"
    print("\n".join([*head, wrote]))
    return {"config": str(out), "arms": arms}
