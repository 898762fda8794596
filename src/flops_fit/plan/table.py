"""A plan with its price as a table: for a page, as CSV, and for a terminal."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from flops_fit.constants import table_names
from flops_fit.experiment.plan import Branch, Plan
from flops_fit.files import FORMAT
from flops_fit.notation import count_text, flops_text, time_text
from flops_fit.plan.amounts import read_checked
from flops_fit.plan.conditioning import POOR, condition_number
from flops_fit.plan.price import DEVICES, Price, Rate, device_kind, price, work_of
from flops_fit.plan.schedule import phases
from flops_fit.plan.trunks import flops_to_train
from flops_fit.sweep import Experiment, flops_per_token, n_key

PHASE_STEPS = ("warmup_steps", "plateau_steps", "decay_steps")  # empty where a script decides them
COLUMNS = (
    "experiment_id",
    "budget",
    "size",
    "seed",
    "params",
    "params_nonembedding",
    "params_total",
    "num_params",
    "tokens",
    "tokens_per_param",
    "epochs",
    "steps",
    *PHASE_STEPS,
    "batch_items",
    "batch_tokens",
    "learning_rate",
    "flops",
    "flops_per_token",
    "flops_counted",
    "flops_6nd",
    "counted_over_6nd",
    "count_method",
    "memory_bytes",
    "seconds",
    "device_hours",
    "money",
)
SOMETIMES = ("weight_decay", "unique_fraction")  # where a sweep decides them


@dataclass(frozen=True)
class PlanRow:
    """An experiment of a plan with what can be derived, and what it will cost.

    ``convention``: what a budget means, counted or 6nd, and so the cost and the N of a row;
    ``epochs``: passes over the training data (None where their amount is not known yet);
    ``phases``: steps of warm-up, plateau and decay; ``price``: time, memory and money; ``branch``: where
    it leaves the trunk that it shares with others (None: it shares no steps); ``share_here``: the share
    of its D that it trains itself.
    """

    experiment: Experiment
    convention: str
    epochs: float | None
    phases: Mapping[str, int]
    price: Price
    branch: Branch | None = None
    share_here: float = 1.0

    @property
    def tokens_per_param(self) -> float:
        """D / N, where N are the matmul parameters."""
        return self.experiment.num_tokens / self.experiment.count.params

    @property
    def batch_tokens(self) -> int:
        """The global batch in target elements, the mean over the steps where it grows."""
        return round(self.batch_items * self.experiment.tokens_per_item)

    @property
    def batch_items(self) -> int:
        """The global batch in items, the mean over the steps where it grows."""
        experiment = self.experiment
        return experiment.batches.mean(experiment.items, experiment.steps)

    @property
    def batch_text(self) -> str:
        """The global batch in target elements, or where it grows that of the first and the last step."""
        batches, per_item = self.experiment.batches, self.experiment.tokens_per_item
        return "-".join(f"{b * per_item:.0f}" for b in sorted({batches.first, batches.last}))

    @property
    def counted_over_6nd(self) -> float:
        """FLOPs as counted, divided by 6 N D."""
        return self.experiment.flops_counted / self.experiment.flops_6nd

    def to_dict(self) -> dict[str, Any]:
        """The row of plan.csv, under the names of results.csv, so that losses may be added to it."""
        count = self.experiment.count
        per_token = flops_per_token(count, self.convention)
        derived = {
            "params": getattr(count, n_key(self.convention)),
            "flops": per_token * self.experiment.num_tokens,
            "flops_per_token": per_token,
            **dict.fromkeys(PHASE_STEPS),
            **{f"{phase}_steps": steps for phase, steps in self.phases.items()},
            **vars(self.price),
            "batch_items": self.batch_items,
        }
        row = table_names(self.experiment.to_dict()) | derived
        values = {name: row[name] if name in row else getattr(self, name) for name in COLUMNS}
        return values | {name: row[name] for name in SOMETIMES if name in row}


@dataclass(frozen=True)
class Totals:
    """What all rows of a plan take together, steps that runs share counted once.

    ``experiments`` and ``budgets`` are numbers of them; ``tokens``, ``flops_counted``, ``flops_6nd``,
    ``seconds``, ``device_hours`` and ``money`` (None without a price) are sums; ``longest_seconds``
    and ``memory_bytes`` are those of the largest run.
    """

    experiments: int
    budgets: int
    tokens: int
    flops_counted: float
    flops_6nd: float
    seconds: float
    longest_seconds: float
    device_hours: float
    memory_bytes: float
    money: float | None


def plan_rows(
    plan: Plan, rate: Rate, per_hour: float | None, unique_tokens: int | None
) -> list[PlanRow]:
    """The experiments of ``plan``, each with what can be derived and what it will cost at ``rate``.

    ``per_hour`` is the money that one device costs an hour (None: not known). The ``unique_tokens``
    of the training data give the epochs (None where the data have not been looked at yet).
    """
    return [
        PlanRow(
            experiment,
            plan.convention,
            epochs=_epochs(experiment, unique_tokens),
            phases=phases(
                experiment.steps,
                plan.schedule,
                experiment.num_tokens,
                partial(experiment.batches.share_of_steps, items=experiment.items),
            ),
            price=price(
                work_of(experiment, plan.start_of(experiment.experiment_id)),
                rate,
                plan.resources,
                per_hour,
            ),
            branch=plan.branches.get(experiment.experiment_id),
            share_here=plan.share_here(experiment),
        )
        for experiment in plan.experiments
    ]


def _epochs(experiment: Experiment, unique_tokens: int | None) -> float | None:
    """Passes of ``experiment`` over the ``unique_tokens`` that it sees, or a share of them."""
    if not unique_tokens:
        return None
    return experiment.num_tokens / (unique_tokens * experiment.share)


def unique_tokens(plan: Plan) -> int | None:
    """The unique tokens of the training data of ``plan``; None where they are not known.

    They are known where the inputs have been checked, or the plan could look at the data.
    """
    if Path(plan.check).exists():
        return read_checked(plan.check).unique_tokens
    return None if plan.data is None else plan.data.unique_tokens


def totals(rows: list[PlanRow]) -> Totals:
    """What all of ``rows`` take together."""
    experiments, prices = [row.experiment for row in rows], [row.price for row in rows]
    money = [price.money for price in prices if price.money is not None]
    return Totals(
        experiments=len(rows),
        budgets=len({e.compute_budget for e in experiments}),
        tokens=round(sum(row.share_here * row.experiment.num_tokens for row in rows)),
        flops_counted=sum(row.share_here * row.experiment.flops_counted for row in rows),
        flops_6nd=sum(row.share_here * row.experiment.flops_6nd for row in rows),
        seconds=sum(price.seconds for price in prices),
        longest_seconds=max(price.seconds for price in prices),
        device_hours=sum(price.device_hours for price in prices),
        memory_bytes=max(price.memory_bytes for price in prices),
        money=sum(money) if len(money) == len(rows) else None,
    )


def plan_json(plan: Plan, rows: list[PlanRow], results: str | Path) -> dict[str, Any]:
    """The ``rows`` of ``plan`` and what they take, as plain data.

    ``total_flops`` are those of training the plan from nothing, with steps that runs share counted
    once; ``separate_flops`` are those without sharing; ``to_train_flops`` are what is left of them
    beside the records and states below ``results``. Each of ``experiments`` has the columns of plan.csv
    and, of its trunk, the run that it is trained ``after``, the ``start_tokens`` that others train for
    it, and the ``flops_here`` of the rest.
    """
    experiments = []
    for row in rows:
        branch = row.branch
        experiments.append(
            row.to_dict()
            | {
                "after": (branch.after or None) if branch else None,
                "start_tokens": branch.start if branch else 0,
                "flops_here": plan.flops_here(row.experiment),
            }
        )
    return {
        "format": FORMAT,
        "total_flops": sum(map(plan.flops_here, plan.experiments)),
        "separate_flops": sum(e.flops_counted or e.flops_6nd for e in plan.experiments),
        "to_train_flops": flops_to_train(plan, results),
        "experiments": experiments,
    }


def plan_csv(rows: list[PlanRow]) -> str:
    """The text of plan.csv: a line for each of ``rows``, with `COLUMNS` and those of `SOMETIMES`."""
    text, lines = io.StringIO(), [row.to_dict() for row in rows]
    names = [*COLUMNS, *(name for name in SOMETIMES if any(name in line for line in lines))]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def format_plan(
    plan: Plan, rows: list[PlanRow], warnings: list[str], rate: Rate, currency: str
) -> str:
    """The ``plan`` as text for a terminal.

    It has a line for each of ``rows``, the skipped cells, the ``warnings``, and what the sweep takes
    in all at ``rate``, with money in ``currency``.
    """
    lines = [
        f"{'budget':>8} {'size':>6} {'seed':>4} {'N':>8} {'D':>8} {'D/N':>6} {'epochs':>6} "
        f"{'steps (up+flat+down)':>22} {'batch':>8} {'rate':>8} {'FLOPs':>9} {'/6ND':>5} "
        f"{'memory':>7} {'time':>8}"
    ]
    lines += [_line(row) for row in rows]
    lines += [
        f"skipped: budget {flops_text(cell.compute_budget)}, size {cell.size_param_value}: {cell.reason}"
        for cell in plan.skipped
    ]
    lines += [f"warning: {warning}" for warning in warnings]
    return "\n".join([*lines, *closing(plan, rows, rate, currency)])


def plan_summary(
    plan: Plan, rows: list[PlanRow], warnings: list[str], rate: Rate, currency: str
) -> str:
    """What the sweep of ``plan`` takes and what may go wrong, without its experiments.

    ``rows, warnings, rate`` and ``currency`` as `format_plan` takes them.
    """
    lines = [*closing(plan, rows, rate, currency), *(f"warning: {w}" for w in warnings)]
    return "\n".join(lines) + "\n"


def opening(plan: Plan, rows: list[PlanRow], currency: str, cores: int) -> str:
    """The cost of the ``rows`` of ``plan`` in one sentence.

    Without GPUs the time is that on the ``cores`` of this machine, as many runs at a time as they
    hold; ``currency`` stands before the money.
    """
    total, asked = totals(rows), plan.resources
    if asked.gpus:
        time = f"{total.device_hours:.3g} GPU hours"
    else:
        at_once = max(1, cores // (asked.processes * asked.threads))
        seconds = max(total.longest_seconds, total.seconds / min(at_once, len(rows)))
        kind = "core" if cores == 1 else f"{cores} cores"
        time = f"{time_text(seconds, 2)} on this machine's {kind}"
    money = "" if total.money is None else f", {currency}{total.money:.2f}"
    runs = f"{len(rows)} runs" if len(rows) > 1 else "one run"
    budgets = f"{total.budgets} budgets" if total.budgets > 1 else "one budget"
    return f"About {time}{money}: {runs} at {budgets}, {flops_text(total.flops_counted)} FLOPs"


def _money(total: Totals, device: str, currency: str) -> str:
    """The price of a sweep and that of a device, so that a price of a whole machine is noticed."""
    if total.money is None:
        return ""
    each = total.money / total.device_hours
    return f", {currency}{total.money:.2f} at {currency}{each:.4g} for an hour of one {device}"


def closing(plan: Plan, rows: list[PlanRow], rate: Rate, currency: str) -> list[str]:
    """Sentences on what the ``rows`` of ``plan`` take in all, and where the estimate comes from.

    ``rate`` is the one that they were priced at; ``currency`` stands before the money.
    """
    total = totals(rows)
    device = DEVICES[device_kind(plan.resources.gpus)]
    shared = sharing(plan, rows, rate)
    return [
        f"{total.experiments} experiments, {total.budgets} budgets, "
        f"{flops_text(total.flops_counted)} FLOPs ({flops_text(total.flops_6nd)} by 6 N D)",
        f"about {total.device_hours:.3g} {device} hours{_money(total, device, currency)}: "
        f"{time_text(total.seconds)} one "
        f"after another, the longest run {time_text(total.longest_seconds)}",
        *([f"learning rate: {plan.rate_from}"] if plan.rate_from else []),
        *([f"size: {plan.size_of}"] if plan.size_of else []),
        *([shared] if shared else []),
        f"condition number of the design: {design_condition(rows):.3g} (up to about {POOR:.0f} the runs "
        "separate the effects of N and D well)",
        f"at {flops_text(rate.flops_per_second)} FLOP/s per {device} and "
        f"{1000 * rate.step_seconds:.3g} ms per step: {rate.source}",
    ]


def design_condition(rows: Sequence[PlanRow]) -> float:
    """The condition number of the design of ``rows`` (see `flops_fit.plan.conditioning`)."""
    experiments = [row.experiment for row in rows]
    return condition_number(
        [e.count.params for e in experiments], [e.num_tokens for e in experiments]
    )


def sharing(plan: Plan, rows: list[PlanRow], rate: Rate) -> str:
    """What the shared steps of the ``rows`` of ``plan`` save at ``rate``; empty where there are none."""
    chains: dict[str, float] = {}
    for row in rows:
        if row.branch is not None:
            chains[row.branch.trunk] = chains.get(row.branch.trunk, 0.0) + row.price.seconds
    if not chains:
        return ""
    alone = plan_rows(replace(plan, branches={}), rate, None, None)
    separate, together = totals(alone), totals(rows)
    share = together.flops_counted / separate.flops_counted
    longest = max(chains.values())
    return (
        f"{len(chains)} trunks: {share:.2f} of the "
        f"{flops_text(separate.flops_counted)} FLOPs of separate runs, and one after another "
        f"{time_text(together.seconds)} instead of {time_text(separate.seconds)}; with a device for "
        f"each trunk it takes {time_text(longest)}, and separate runs with a device for each take "
        f"{time_text(separate.longest_seconds)}"
    )


def _line(row: PlanRow) -> str:
    e = row.experiment
    steps = "+".join(map(str, row.phases.values())) or "?"
    epochs = "?" if row.epochs is None else f"{row.epochs:.2g}"
    return (
        f"{flops_text(e.compute_budget):>8} {e.size_param_value:>6} {e.seed:4d} "
        f"{count_text(e.count.params):>8} {count_text(e.num_tokens):>8} "
        f"{row.tokens_per_param:6.3g} {epochs:>6} {f'{e.steps} ({steps})':>22} "
        f"{row.batch_text:>8} {e.learning_rate:8.3g} {flops_text(e.flops_counted):>9} "
        f"{row.counted_over_6nd:5.2f} {row.price.memory_bytes / 1e9:5.2f}GB "
        f"{time_text(row.price.seconds):>8}"
        + (f"  weight decay {e.weight_decay:.3g}" if e.weight_decay is not None else "")
        + (f"  {e.unique_fraction:.3g} of the data" if e.unique_fraction is not None else "")
    )
