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
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import run_folder, sweep_folder
from flops_fit.experiment.plan import Plan
from flops_fit.files import read_json, write_atomic
from flops_fit.fit.result import read_fit
from flops_fit.notation import flops_text
from flops_fit.plan.cache import plan_config
from flops_fit.plan.price import priced_resources, rate_for
from flops_fit.plan.table import plan_rows
from flops_fit.rounds.choice import Cells, first_grid
from flops_fit.rounds.goal import Goal, check_possible
from flops_fit.rounds.next import config_text, number
from flops_fit.rounds.outcome import LEVEL, Outcome, usual_forms
from flops_fit.rounds.simulate import design_of
from flops_fit.store.records import RECORD

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

    @cached_property
    def plan(self) -> Plan:
        """The plan of all runs that rounds can choose: the config's grid with its first seed."""
        return plan_config({**self.config, "seeds": self.config["seeds"][:1]}, RESULTS, self.paths)

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
        )

    def possible(self) -> str:
        """What the error of the form alone costs at the goal; refuses a goal that it forbids."""
        form, largest = usual_forms()[self.goal.law], float(self.cells.budget.max())
        return check_possible(self.goal, form, largest, LEVEL, "as other sweeps showed")

    def known(self) -> Round | None:
        """The last round whose config is there; None before the first.

        Raises `FlopsFitError` for a round of another version of the sweep.
        """
        last = None
        for number_ in range(1, MOST_ROUNDS + 1):
            path = self._file(number_)
            if not path.exists():
                return last
            raw = yaml.safe_load(path.read_text())
            if _rest(raw) != _rest(self.raw):
                raise FlopsFitError(
                    f"{path}: made from another version of {self.path}; allowed: the rounds of this "
                    "config; delete the configs of its rounds to begin again (trained runs are kept)"
                )
            last = Round(number_, raw["name"], path, self._runs(raw))
        return last

    def _file(self, number_: int) -> Path:
        return self.path.with_name(f"{self.config['name']}-round{number_}.yaml")

    def _runs(self, raw: Mapping[str, Any]) -> np.ndarray:
        """Which of the cells a round's config holds."""
        chosen = {
            (float(budget), float(size))
            for budget, sizes in raw["sizes"]["per_budget"].items()
            for size in sizes
        }
        pairs = zip(self.design["budget"], self.design["size"], strict=True)
        return np.array([(float(b), float(s)) in chosen for b, s in pairs])

    def write(self, number_: int, runs: np.ndarray, why: str) -> Round:
        """Write the config of round ``number_`` with ``runs`` (n,), and ``why`` at its head."""
        sizes: dict[float, list] = {}
        for row in self.design[runs].sort_values(["budget", "params"]).itertuples(index=False):
            sizes.setdefault(row.budget, []).append(number(row.size))
        name, path = self._file(number_).stem, self._file(number_)
        raw = {key: value for key, value in self.raw.items() if key != "until"} | {
            "name": name,
            "budgets": [number(b) for b in sizes],
            "sizes": {"per_budget": {number(b): values for b, values in sizes.items()}},
            "seeds": self.config["seeds"][:1],
        }
        head = [f"Made by `flops-fit sweep` from {self.path}: {self.goal.text}.", why]
        complete_config(raw)
        write_atomic(path, config_text(raw, head))
        return Round(number_, name, path, runs)

    def first(self) -> np.ndarray:
        """The runs (n,) of the first round; raises `FlopsFitError` where they cost too much."""
        runs = first_grid(self.cells.budget, self.cells.log_n)
        flops = self.cells.total(runs)
        if flops > self.most:
            raise FlopsFitError(
                f"--max-flops: {self.most:g}; the first round of {int(runs.sum())} runs costs "
                f"{flops_text(flops)}; allowed: more, or a config with smaller budgets"
            )
        return runs

    def outcome(self, last: Round) -> Outcome:
        """What the workflow left of the round ``last``."""
        return Outcome(
            self.goal,
            self.most,
            self.design,
            replace(self.cells, paid=self._paid(last)),
            last.runs,
            read_fit(sweep_folder(RESULTS, last.name) / "fit.json"),
            self.config["fit"],
        )

    def _paid(self, last: Round) -> np.ndarray:
        """The share (n,) of each run that was trained, as the records of the round ``last`` say."""
        paid = np.zeros(len(last.runs))
        for i in np.flatnonzero(last.runs):
            path = run_folder(RESULTS, self.design["experiment_id"][i]) / RECORD
            if path.exists():  # else it has failed, and accept_failures lets the sweep go on
                record = read_json(path)
                paid[i] = (
                    record.get("flops_here", record["flops_counted"]) / record["flops_counted"]
                )
        return paid

    def line(self, last: Round, outcome: Outcome) -> str:
        """One line on the round ``last`` and its ``outcome``."""
        count, flops = int(last.runs.sum()), flops_text(outcome.cells.total(last.runs))
        return (
            f"round {last.number}: {count} runs, {flops} FLOPs, {outcome.interval}; "
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
            "flops": outcome.cells.total(last.runs),
            "estimate": getattr(answer, self.goal.quantity),
            "interval": (answer.ci or {}).get(self.goal.quantity),
            "reached": self.goal.reached(answer),
            "verdict": answer.verdict,
        }


def _rest(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What a round shares with its sweep."""
    return {key: value for key, value in raw.items() if key not in GRID_KEYS}


def _check(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a sweep whose fit gives no interval with the error of the form."""
    fit = config["fit"]
    if not fit["bootstrap"]:
        raise FlopsFitError(f"{path}: fit.bootstrap: 0 gives no interval; allowed: 1 or more")
    if fit["method"] != "auto":
        raise FlopsFitError(
            f"{path}: fit.method: {fit['method']!r} gives an interval of noise alone; allowed: auto"
        )
