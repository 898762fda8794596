"""Rounds until the answer is good enough: each is an ordinary sweep that Snakemake runs.

The loop keeps no state but files: the config of each round beside the config of the sweep, and what
the workflow leaves below ``results``. Given again, it finds them and goes on after the last round.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from flops_fit.config.complete import complete_config
from flops_fit.config.load import load_config
from flops_fit.constants import Status
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import sweep_folder
from flops_fit.experiment.plan import Plan
from flops_fit.files import write_atomic
from flops_fit.fit.result import read_fit
from flops_fit.notation import flops_text
from flops_fit.plan.cache import plan_config
from flops_fit.plan.price import priced_resources, rate_for
from flops_fit.plan.table import plan_rows
from flops_fit.rounds.choice import Cells, first_grid
from flops_fit.rounds.goal import Goal, check_possible
from flops_fit.rounds.next import as_seeds, config_text, number
from flops_fit.rounds.outcome import LEVEL, Outcome, usual_forms
from flops_fit.rounds.simulate import design_of
from flops_fit.store.collect import read_results
from flops_fit.sweep import seeds_at

RESULTS = "results"  # where the workflow writes
MOST_ROUNDS = 50
GRID_KEYS = (
    "name",
    "budgets",
    "sizes",
    "seeds",
    "until",
)  # in which a round differs from the sweep


@dataclass(frozen=True)
class Round:
    """A round of ``number``: its ``name``, its ``config`` file, its ``runs`` (n,) among the cells."""

    number: int
    name: str
    config: Path
    runs: np.ndarray


class Rounds:
    """The rounds of the sweep in the config file ``path`` towards ``goal``.

    ``most``: FLOPs that all rounds together may take (None: the whole grid of the config). ``paths``
    are searched for modules and data.
    """

    def __init__(self, path: Path, config: dict, goal: Goal, most: float | None, paths: list[str]):
        self.path, self.config, self.goal, self.paths = path, config, goal, paths
        self.most = math.inf if most is None else most
        self.raw = yaml.safe_load(path.read_text())
        _check(path, config)
        if goal.unit == "nats" and not (config["fit"]["loss_unit"] or "nats").startswith("nats"):
            raise FlopsFitError(
                f"--until: {goal.text}; {path}: fit.loss_unit: the losses are in "
                f"{config['fit']['loss_unit']}; allowed: a goal in %"
            )

    @cached_property
    def plan(self) -> Plan:
        """The plan of all runs that rounds can choose: the config's grid."""
        return plan_config(self.config, RESULTS, self.paths)

    @cached_property
    def design(self) -> pd.DataFrame:
        """The runs that rounds can choose, one per row, as a fit will read them."""
        return design_of(self.plan, self.config["fit"]["params"])

    @cached_property
    def cells(self) -> Cells:
        """The runs that rounds can choose, and what they take."""
        plan, pricing, design = self.plan, self.config["pricing"], self.design
        resources = priced_resources(pricing, plan.resources)
        rate = rate_for(pricing, resources.gpus, plan.precision, RESULTS)
        alone = replace(plan, resources=resources, branches={})
        money = [row.price.money for row in plan_rows(alone, rate, pricing["per_hour"], None)]
        flops = np.array([alone.flops_here(e) for e in plan.experiments])
        branches = [plan.branches.get(e.experiment_id) for e in plan.experiments]
        return Cells(
            budget=design["budget"].to_numpy(dtype=float),
            log_n=np.log(design["params"].to_numpy(dtype=float)),
            log_d=np.log(design["tokens"].to_numpy(dtype=float)),
            flops=flops,
            money=flops if pricing["per_hour"] is None else np.array(money, dtype=float),
            trunk=np.array([branch.trunk if branch else "" for branch in branches]),
            leave=np.array(
                [
                    branch.tokens / e.num_tokens if branch else 0.0
                    for branch, e in zip(branches, plan.experiments, strict=True)
                ]
            ),
            paid=np.zeros(len(flops)),
            repeat=np.array(
                [
                    list(seeds_at(self.config["seeds"], budget)).index(seed)
                    for budget, seed in zip(design["budget"], design["seed"], strict=True)
                ]
            ),
        )

    def possible(self) -> str:
        """What the error of the form alone costs at the goal; refuses a goal that it forbids."""
        form, largest = usual_forms()[self.goal.law], float(self.cells.budget.max())
        return check_possible(self.goal, form, largest, LEVEL, "as other sweeps showed")

    def known(self) -> Round | None:
        """The last round whose config is there; None before the first.

        Raises `FlopsFitError` for a round of another version of the sweep, and where one is missing.
        """
        last = None
        for number_ in self._numbers():
            path = self._file(number_)
            if number_ != (last.number if last else 0) + 1:
                raise FlopsFitError(
                    f"{path}: there is no config of round {number_ - 1} beside it, so it is not of "
                    "these rounds; allowed: all configs from round 1 on, or none of them"
                )
            raw = yaml.safe_load(path.read_text())
            other = _rest(raw) != _rest(self.raw)
            runs = None if other else self._runs(load_config(path))
            if runs is None:
                raise FlopsFitError(
                    f"{path}: made from another version of {self.path}; allowed: the rounds of this "
                    "config; delete the configs of its rounds to begin again (trained runs are kept)"
                )
            last = Round(number_, raw["name"], path, runs)
        return last

    def _numbers(self) -> list[int]:
        """The numbers of the rounds whose configs are there."""
        return [n for n in range(1, MOST_ROUNDS + 1) if self._file(n).exists()]

    def _file(self, number_: int) -> Path:
        return self.path.with_name(f"{self.config['name']}-round{number_}.yaml")

    def _runs(self, config: Mapping[str, Any]) -> np.ndarray | None:
        """Which of the cells a round's ``config`` holds; None where it holds others too."""
        chosen = {
            (budget, float(size), seed)
            for budget, sizes in config["sizes"]["per_budget"].items()
            for size in sizes
            for seed in seeds_at(config["seeds"], budget)
        }
        every = zip(*(self.design[name] for name in ("budget", "size", "seed")), strict=True)
        runs = np.array([(float(b), float(s), int(seed)) in chosen for b, s, seed in every])
        return runs if runs.sum() == len(chosen) else None

    def write(self, number_: int, runs: np.ndarray, why: str) -> Round:
        """Write the config of round ``number_`` with ``runs`` (n,), and ``why`` at its head."""
        chosen = self.design[runs].sort_values(["budget", "params"])
        sizes: dict[float, list] = {}
        seeds: dict[float, list[int]] = {}
        for budget, part in chosen.groupby("budget"):
            sizes[budget] = [number(size) for size in part["size"].unique()]
            every = seeds_at(self.config["seeds"], budget)
            seeds[budget] = [seed for seed in every if (part["seed"] == seed).any()]
        name, path = self._file(number_).stem, self._file(number_)
        raw = {key: value for key, value in self.raw.items() if key != "until"} | {
            "name": name,
            "budgets": [number(b) for b in sizes],
            "sizes": {"per_budget": {number(b): values for b, values in sizes.items()}},
            "seeds": as_seeds(seeds),
        }
        head = [f"Made by `flops-fit sweep` from {self.path}: {self.goal.text}.", why]
        complete_config(raw)
        write_atomic(path, config_text(raw, head))
        return Round(number_, name, path, runs)

    def first(self) -> np.ndarray:
        """The runs (n,) of the first round; raises `FlopsFitError` where they cost too much."""
        runs = first_grid(self.cells)
        flops = self.cells.total(runs)
        if flops > self.most:
            raise FlopsFitError(
                f"--max-flops: {self.most:g}; the first round of {int(runs.sum())} runs costs "
                f"{flops_text(flops)}; allowed: more, or a config with smaller budgets"
            )
        return runs

    def check_money(self, last: Round) -> None:
        """Refuse a round ``last`` that is not trained yet and costs more than the rounds may take."""
        flops = self.cells.total(last.runs)
        if flops > self.most and not (sweep_folder(RESULTS, last.name) / "fit.json").exists():
            raise FlopsFitError(
                f"--max-flops: {self.most:g}; {last.config}, which is not trained to its end, costs "
                f"{flops_text(flops)} with the rounds before it; allowed: more, or delete this config"
            )

    def outcome(self, last: Round) -> Outcome:
        """What the workflow left of the round ``last``.

        Raises `FlopsFitError` where that is not what its config describes.
        """
        paid, lost = self._trained(last)
        return Outcome(
            self.goal,
            self.most,
            self.design,
            replace(self.cells, paid=paid),
            last.runs,
            lost,
            read_fit(sweep_folder(RESULTS, last.name) / "fit.json"),
            self.config["fit"],
        )

    def _trained(self, last: Round) -> tuple[np.ndarray, np.ndarray]:
        """The share (n,) of each run that was trained, and which runs (n,) have no loss.

        A run without a loss has diverged, or failed with accept_failures.
        """
        path = sweep_folder(RESULTS, last.name) / "results.json"
        records = {record["experiment_id"]: record for record in read_results(path)}
        ids = self.design["experiment_id"]
        if set(records) != set(ids[last.runs]):
            raise FlopsFitError(
                f"{path}: its runs are not those of {last.config}; allowed: options of --snakemake with "
                "which Snakemake trains and fits the whole config, so no -n, --until or --config"
            )
        paid, lost = np.zeros(len(ids)), np.zeros(len(ids), dtype=bool)
        for i in np.flatnonzero(last.runs):
            record = records[ids[i]]
            lost[i] = not Status(record["status"]).usable
            if record["status"] != Status.FAILED:
                whole = record["flops_counted"]
                paid[i] = record.get("flops_here", whole) / whole
        return paid, lost

    def line(self, last: Round, outcome: Outcome) -> str:
        """One line on the round ``last`` and its ``outcome``."""
        count, flops = int(last.runs.sum()), flops_text(outcome.cells.total(last.runs))
        lost = int(outcome.lost.sum())
        without = f" ({lost} without a loss: diverged or failed)" if lost else ""
        return (
            f"round {last.number}: {count} runs{without}, {flops} FLOPs, {outcome.interval}; "
            f"goal {self.goal.text}"
        )

    def cost_text(self, runs: np.ndarray) -> str:
        """How many ``runs`` (n,) there are, and what they take, as text."""
        budgets = ", ".join(flops_text(c) for c in np.unique(self.cells.budget[runs]))
        per_hour, currency = (self.config["pricing"][key] for key in ("per_hour", "currency"))
        money = "" if per_hour is None else f" ({currency}{self.cells.price(runs):.2f})"
        flops, every = (flops_text(self.cells.total(r)) for r in (runs, np.ones_like(runs)))
        return (
            f"{int(runs.sum())} of {len(runs)} runs of the grid, {flops} of {every} FLOPs{money}, at "
            f"budgets {budgets}"
        )

    def to_dict(self, last: Round, outcome: Outcome) -> dict[str, Any]:
        """The round ``last`` and its ``outcome`` as plain data."""
        answer = outcome.answer
        return {
            "round": last.number,
            "config": str(last.config),
            "runs": int(last.runs.sum()),
            "without_loss": int(outcome.lost.sum()),
            "flops": outcome.cells.total(last.runs),
            "estimate": getattr(answer, self.goal.quantity),
            "interval": (answer.ci or {}).get(self.goal.quantity),
            "reached": outcome.reached,
            "verdict": answer.verdict,
        }


def _rest(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What a round shares with its sweep."""
    return {key: value for key, value in raw.items() if key not in GRID_KEYS}


def _check(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a sweep whose fit gives no interval with the error of the form, or of uneven cells."""
    fit, fractions = config["fit"], (config.get("dataset") or {}).get("unique_fraction", [1])
    parts = fractions.values() if isinstance(fractions, dict) else [fractions]
    if any(len(part) > 1 for part in parts):
        raise FlopsFitError(
            f"{path}: dataset.unique_fraction: several shares of the data; allowed in rounds: one, "
            "because they choose among sizes and budgets alone"
        )
    if not fit["bootstrap"]:
        raise FlopsFitError(f"{path}: fit.bootstrap: 0 gives no interval; allowed: 1 or more")
    if fit["method"] != "auto":
        raise FlopsFitError(
            f"{path}: fit.method: {fit['method']!r} gives an interval of noise alone; allowed: auto"
        )
