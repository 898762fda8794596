"""What may go wrong with a plan, before it is paid for.

Thresholds are rules of thumb; each sentence says what would happen, not only that it might.
"""

import math
from collections.abc import Callable, Sequence

from flops_fit.constants import MOST_EPOCHS, PUBLISHED_RATIO, TRUNK
from flops_fit.experiment.plan import Plan
from flops_fit.notation import flops_text
from flops_fit.plan.amounts import shortage
from flops_fit.plan.conditioning import POOR
from flops_fit.plan.price import passing_bytes, work_of
from flops_fit.plan.table import PlanRow, design_condition
from flops_fit.plan.window import FEWEST_SIZES

FEWEST_BUDGETS, NARROWEST_SPAN = 3, 10  # budgets of a power law that can be tested
NARROWEST_SIZES = 4  # the span in N of the sizes of a curve
FEWEST_STEPS, SHORTEST_WARMUP = 100, 5
ONE_VALUE = 0.10  # ln: a spread of N, D or D / N below which they count as one value
ONE_AXIS = (
    "this answers how the loss falls with {0} (L = E + {2}), and neither which N is best for a "
    "budget nor what more {1} are worth"
)
SHORTEST_END = 1000  # steps of a run with a trunk, below which its loss was measured to be higher
LONGEST_WARMUP = 0.1  # of the shortest run with a trunk
FARTHEST_ANSWER = 10  # times the largest budget
SHOWN = 3  # runs that a sentence names


def plan_warnings(
    plan: Plan,
    rows: list[PlanRow],
    answers: Sequence[float] = (),
    device_bytes: float | None = None,
) -> list[str]:
    """Sentences on what may go wrong with ``plan``, the gravest first.

    ``rows``: those of `flops_fit.plan.table.plan_rows`; ``answers``: the budgets, in FLOPs, that will
    be answered for; ``device_bytes``: the memory of a GPU (None: not known).
    """
    of_law = (_one_axis, _collinear, _few_budgets, _few_sizes, _lopsided, _off_centre)
    checks: list[Callable[[Plan, list[PlanRow]], list[str]]] = [
        _too_little,
        *(() if tunes(rows) else of_law),
        _short,
        _short_ends,
        _repeated,
    ]
    sentences = [sentence for check in checks for sentence in check(plan, rows)]
    return [*_too_large(plan, rows, device_bytes), *sentences, *_far(rows, answers), *plan.warnings]


def tunes(rows: Sequence[PlanRow]) -> bool:
    """Whether ``rows`` try several rates, batches or weight decays at a size and a budget.

    They are for a rule of the rate then, not for a law of the loss.
    """
    cells = {
        (e.compute_budget, e.size_param_value, e.seed, e.unique_fraction)
        for e in (row.experiment for row in rows)
    }
    return len(cells) < len(rows)


def _too_little(plan: Plan, rows: list[PlanRow]) -> list[str]:
    """What the check of the inputs will refuse, where the amount of data is known already."""
    known = plan.data
    missing = shortage(known, plan.experiments, known.max_epochs) if known else ""
    return [f"{missing}: `flops-fit check` refuses it"] if missing else []


def _too_large(plan: Plan, rows: list[PlanRow], device_bytes: float | None) -> list[str]:
    """Which runs may not fit into the memory of a GPU, or into their share of it."""
    sharing = plan.resources.sharing
    if device_bytes is None or not plan.resources.gpus:
        return []
    large = [row for row in rows if sharing * row.price.memory_bytes > device_bytes]
    if not large:
        return []
    names = ", ".join(row.experiment.experiment_id for row in large[:SHOWN])
    more = f" and {len(large) - SHOWN} more" if len(large) > SHOWN else ""
    largest = max(large, key=lambda row: row.price.memory_bytes)
    most = largest.price.memory_bytes / 1e9
    each = f" for each of {sharing} runs" if sharing > 1 else ""
    training, evaluation = passing_bytes(work_of(largest.experiment), plan.resources)
    advice = "resources.micro_batch_items" if training > evaluation else "evaluation.batch_items"
    advice += " or resources.runs_per_gpu" if sharing > 1 else ""
    return [
        f"{names}{more}: the estimated memory, up to {most:.2g} GB{each}, does not fit into the "
        f"{device_bytes / 1e9:.3g} GB of a GPU; lower {advice}"
    ]


def _one_axis(plan: Plan, rows: list[PlanRow]) -> list[str]:
    """What a plan can answer in which N and D do not vary apart from each other."""
    log_n, log_d = (
        [math.log(value) for value in values]
        for values in (
            [row.experiment.count.params for row in rows],
            [row.experiment.num_tokens for row in rows],
        )
    )
    span_n, span_d = max(log_n) - min(log_n), max(log_d) - min(log_d)
    if span_d < ONE_VALUE and span_n >= ONE_VALUE:
        return [f"every run has the same D: {ONE_AXIS.format('N', 'tokens', 'A / N^alpha')}"]
    if span_n < ONE_VALUE and span_d >= ONE_VALUE:
        return [f"every run has the same N: {ONE_AXIS.format('D', 'parameters', 'B / D^beta')}"]
    ratios = [d - n for n, d in zip(log_n, log_d, strict=True)]
    if span_n >= ONE_VALUE and max(ratios) - min(ratios) < ONE_VALUE:
        return [
            "every run has the same D / N: this answers how the loss falls as both grow together, and "
            "neither which N is best for a budget nor what another ratio would cost"
        ]
    return []


def _collinear(plan: Plan, rows: list[PlanRow]) -> list[str]:
    """What a plan of several budgets can answer in which D follows N."""
    condition = design_condition(rows)
    if condition < POOR or len(_by_budget(rows)) < 2 or _one_axis(plan, rows):
        return []
    ratios = [row.tokens_per_param for row in rows]
    return [
        f"the condition number of the design is {condition:.3g}, above {POOR:.0f}: N and D grow almost "
        f"together (D / N varies by a factor of {max(ratios) / min(ratios):.2g}), so the runs hardly "
        "separate their effects; spread the sizes of each budget over a factor of 4 or more in N"
    ]


def _by_budget(rows: list[PlanRow]) -> dict[float, list[PlanRow]]:
    budgets: dict[float, list[PlanRow]] = {}
    for row in rows:
        budgets.setdefault(row.experiment.compute_budget, []).append(row)
    return dict(sorted(budgets.items()))


def _few_budgets(plan: Plan, rows: list[PlanRow]) -> list[str]:
    budgets = sorted(_by_budget(rows))
    if len(budgets) < FEWEST_BUDGETS:
        return [
            f"{len(budgets)} {'budget' if len(budgets) == 1 else 'budgets'}: a power law of the "
            f"optimum can be neither fitted well nor tested; allow {FEWEST_BUDGETS} or more"
        ]
    span = budgets[-1] / budgets[0]
    if span < NARROWEST_SPAN:
        return [
            f"the budgets span a factor of {span:.3g}: exponents from so short a lever are "
            f"uncertain; a factor of {NARROWEST_SPAN} or more is better"
        ]
    return []


def _few_sizes(plan: Plan, rows: list[PlanRow]) -> list[str]:
    sentences = []
    for budget, cells in _by_budget(rows).items():
        params = sorted({row.experiment.count.params for row in cells})
        if len(params) < FEWEST_SIZES:
            sentences.append(
                f"budget {flops_text(budget)} has {len(params)} sizes: with fewer than {FEWEST_SIZES} a "
                "minimum can hardly be distinguished from noise"
            )
        elif params[-1] / params[0] < NARROWEST_SIZES:
            sentences.append(
                f"the sizes at budget {flops_text(budget)} span a factor of "
                f"{params[-1] / params[0]:.2g} in N: the curve will look flat; a factor of "
                f"{NARROWEST_SIZES} or more shows its sides"
            )
    return sentences


def _lopsided(plan: Plan, rows: list[PlanRow]) -> list[str]:
    sentences = []
    for budget, cells in _by_budget(rows).items():
        skipped = [
            cell.size_param_value
            for cell in plan.skipped
            if cell.compute_budget == budget and "floor" in cell.reason
        ]
        kept = [row.experiment.size_param_value for row in cells]
        if len(skipped) > 1 and min(skipped) > max(kept):
            sentences.append(
                f"the floor of steps drops the {len(skipped)} largest sizes of budget "
                f"{flops_text(budget)}: its curve may lose its right side; a smaller batch would "
                "keep them"
            )
    return sentences


def _off_centre(plan: Plan, rows: list[PlanRow]) -> list[str]:
    sentences: list[str] = []
    if rows[0].experiment.tokens_per_item == 1:
        return sentences  # images and the like: no published ratio to hold them against
    for budget, cells in _by_budget(rows).items():
        ratios = [row.tokens_per_param for row in cells]
        low, high = min(ratios), max(ratios)
        if len(ratios) > 1 and not low < PUBLISHED_RATIO < high:
            side = "smaller" if high <= PUBLISHED_RATIO else "larger"
            sentences.append(
                f"budget {flops_text(budget)} has {low:.3g} to {high:.3g} tokens per parameter, all on "
                f"one side of the {PUBLISHED_RATIO} that published laws of text find: its minimum may "
                f"lie outside; add {side} sizes"
            )
    return sentences


def _short(plan: Plan, rows: list[PlanRow]) -> list[str]:
    sentences = []
    shortest = min(rows, key=lambda row: row.experiment.steps)
    steps = shortest.experiment.steps
    if steps < FEWEST_STEPS:
        count = sum(row.experiment.steps < FEWEST_STEPS for row in rows)
        sentences.append(
            f"{count} of {len(rows)} runs have fewer than {FEWEST_STEPS} steps (the fewest: "
            f"{steps}): too short to reach the loss of their size; use smaller batches"
        )
    warmup = min((row.phases["warmup"] for row in rows if row.phases), default=SHORTEST_WARMUP)
    key = "warmup_tokens" if plan.schedule.get("kind") == TRUNK else "warmup"
    if warmup < SHORTEST_WARMUP and plan.schedule[key] > 0:
        sentences.append(
            f"the shortest warm-up has {warmup} steps: too short to warm anything up; lower the "
            f"batch or raise schedule.{key}"
        )
    return sentences


def _short_ends(plan: Plan, rows: list[PlanRow]) -> list[str]:
    """What bends the law where one rate, which falls only at the end, serves runs of all lengths."""
    if plan.schedule.get("kind") != TRUNK:
        return []
    sentences = []
    short = [row.experiment.steps for row in rows if row.experiment.steps < SHORTEST_END]
    if short:
        sentences.append(
            f"{len(short)} of {len(rows)} runs have fewer than about {SHORTEST_END:,} steps (the "
            f"fewest: {min(short)}): with a trunk such runs end at a higher loss than under a rate "
            "that falls over all of D, which tilts the law; use larger budgets or a smaller batch"
        )
    fewest = min(row.experiment.num_tokens for row in rows)
    share = plan.schedule["warmup_tokens"] / fewest
    if share > LONGEST_WARMUP:
        sentences.append(
            f"the warm-up takes {100 * share:.0f}% of the shortest run, which raises its loss; lower "
            "schedule.warmup_tokens"
        )
    return sentences


def _repeated(plan: Plan, rows: list[PlanRow]) -> list[str]:
    epochs = [row.epochs for row in rows if row.epochs is not None]
    if not epochs or max(epochs) <= 1:
        return []
    often = sum(e > 1 for e in epochs)
    text = f"{often} of {len(rows)} runs repeat data, up to {max(epochs):.2g} passes: "
    if max(epochs) > MOST_EPOCHS:
        return [
            text + f"beyond {MOST_EPOCHS} repeated tokens are worth clearly less than fresh "
            "ones, and the law will mix both"
        ]
    return [text + f"up to {MOST_EPOCHS} they are worth nearly as much as fresh ones"]


def _far(rows: list[PlanRow], answers: Sequence[float]) -> list[str]:
    largest = max(row.experiment.compute_budget for row in rows)
    far = [c for c in answers if c > FARTHEST_ANSWER * largest * (1 + 1e-9)]
    return [
        f"an answer is asked for at {flops_text(c)} FLOPs, {c / largest:.3g} times the largest budget: "
        f"beyond {FARTHEST_ANSWER} times it is a guess"
        for c in far
    ]
