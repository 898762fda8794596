"""``flops-fit sweep``: rounds of a sweep until the answer is good enough."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flops_fit.rounds.loop import Round, Rounds
    from flops_fit.rounds.outcome import End, Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``sweep`` to argparse."""
    parser.description = (
        "Train a sweep in rounds that Snakemake runs, until the answer is as narrow as asked."
    )
    parser.epilog = (
        'example:\n  flops-fit sweep --config config/standard.yaml --until "N within 1.6x at 7e13"\n\n'
        "The first round is a small part of the config's grid; each further one adds the runs that\n"
        "narrow the answer most for their FLOPs (or money, with pricing.per_hour). Every round is a\n"
        "sweep of its own, NAME-round1, NAME-round2, ..., whose config lies beside the first one.\n"
        "Killed, the same command goes on; nothing is trained twice."
    )
    add = parser.add_argument
    add("--config", required=True, help="the sweep's config: its grid is what may be trained")
    add(
        "--until",
        metavar="GOAL",
        help='"N within 1.25x at 1e13" (or D), "loss within 1%% at 1e13", "loss within 0.02 nats at '
        '1e13" (default: until of the config)',
    )
    add("--max-flops", type=float, help="most FLOPs that all rounds together may take")
    add(
        "--snakemake",
        default="--cores all",
        metavar="OPTIONS",
        help='options of Snakemake (default: "--cores all")',
    )
    add("--snakefile", default="Snakefile", help="the workflow (default: Snakefile)")
    add("--dry-run", action="store_true", help="only print the first round and what it costs")
    add("--json", action="store_true", help="print one JSON object at the end")


def run(args: argparse.Namespace) -> None:
    """Run rounds until the goal is reached, the FLOPs are spent, or nothing helps."""
    import os
    import shlex
    from pathlib import Path

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from flops_fit.errors import FlopsFitError
    from flops_fit.experiment.places import plan_folder
    from flops_fit.fit.numbers import positive_number
    from flops_fit.plan.cache import search_paths
    from flops_fit.rounds.goal import parse_goal
    from flops_fit.rounds.grid import grid_config
    from flops_fit.rounds.loop import MOST_ROUNDS, RESULTS, Rounds
    from flops_fit.rounds.outcome import End
    from flops_fit.rounds.snakemake import run_config

    snakefile = Path(args.snakefile)
    if not snakefile.is_file():
        raise FlopsFitError(f"--snakefile: {snakefile}: no such file; allowed: a Snakefile")
    config = grid_config(args.config)
    until = config["until"] or {}
    text = args.until or until.get("goal")
    if text is None:
        raise FlopsFitError(f"--until: missing, and {args.config} has no until")
    most = until.get("max_flops") if args.max_flops is None else args.max_flops
    if most is not None:
        most = positive_number("--max-flops", most, " of FLOPs")
    paths = search_paths([str(snakefile.resolve().parent)])
    goal = parse_goal(text, "--until" if args.until else f"{args.config}: until")
    rounds = Rounds(Path(args.config), config, goal, most, paths)
    print(rounds.possible(), flush=True)
    here = rounds.known()
    if here is None:
        runs = rounds.first()
        print(f"round 1: {rounds.cost_text(runs)}", flush=True)
        if not args.dry_run:
            here = rounds.write(1, runs, "Why: a small first part of the grid")
    else:
        print(f"goes on with round {here.number}: {rounds.cost_text(here.runs)}", flush=True)
        rounds.check_money(here)
    if args.dry_run or here is None:
        return
    lines: list[dict[str, Any]] = []
    mark = plan_folder(RESULTS) / "sweep.lock"
    options = [*shlex.split(args.snakemake), "--snakefile", str(snakefile)]
    while True:
        run_config(here.config, options, mark)
        outcome = rounds.outcome(here)
        print(rounds.line(here, outcome), flush=True)
        lines.append(rounds.to_dict(here, outcome))
        following = outcome.following()
        if isinstance(following, End):
            break
        if here.number == MOST_ROUNDS:
            raise FlopsFitError(f"{here.config}: {MOST_ROUNDS} rounds; allowed: no more")
        here = rounds.write(here.number + 1, *following)
    _report(rounds, here, outcome, following, lines, args.json)


def _report(
    rounds: "Rounds",
    last: "Round",
    outcome: "Outcome",
    end: "End",
    lines: list[dict[str, Any]],
    as_json: bool,
) -> None:
    """Say why the rounds ended, what the verdict on the answer is, and where it lies."""
    import json

    answer = outcome.answer
    print(f"{end.reason}: {end.sentence}")
    print("; ".join([f"verdict: {answer.verdict}", *answer.reasons]))
    print(f"config: {last.config}; report: results/{last.name}/report.html")
    if as_json:
        ended = {"goal": rounds.goal.text, "reason": end.reason, "sentence": end.sentence}
        print(json.dumps(ended | {"config": str(last.config), "rounds": lines}))
