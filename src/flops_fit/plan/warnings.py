"""What may come out wrong, said of a plan before it is paid for.

Thresholds are rules of thumb; each sentence says what would happen, not only that it might.
"""

from collections.abc import Callable, Sequence

from flops_fit.constants import MOST_EPOCHS, PUBLISHED_RATIO
from flops_fit.plan.amounts import shortage

FEWEST_BUDGETS, NARROWEST_SPAN = 3, 10  # budgets of a power law that can be tested
FEWEST_SIZES, NARROWEST_SIZES = 5, 4  # sizes of a curve, and their span in N
FEWEST_STEPS, SHORTEST_WARMUP = 100, 5
FARTHEST_ANSWER = 10  # times the largest budget


def plan_warnings(plan: dict, rows: list[dict], answers: Sequence[float] = ()) -> list[str]:
    """Sentences on a plan whose ``rows`` `flops_fit.plan.table.plan_rows` made, the gravest first.

    ``answers``: the budgets that will be answered for.
    """
    checks: list[Callable] = [
        _too_little,
        _few_budgets,
        _few_sizes,
        _lopsided,
        _off_centre,
        _short,
        _repeated,
    ]
    found = [sentence for check in checks for sentence in check(plan, rows)]
    return [*found, *_far(rows, answers), *plan["warnings"]]


def _too_little(plan: dict, rows: list[dict]) -> list[str]:
    """What the check of the inputs will refuse, where the amount of data is known already."""
    known = plan.get("data")
    missing = shortage(known, rows, known["max_epochs"]) if known else ""
    return [f"{missing}: `flops-fit check` refuses it"] if missing else []


def _by_budget(rows: list[dict]) -> dict[float, list[dict]]:
    budgets: dict[float, list[dict]] = {}
    for row in rows:
        budgets.setdefault(row["compute_budget"], []).append(row)
    return dict(sorted(budgets.items()))


def _few_budgets(plan: dict, rows: list[dict]) -> list[str]:
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


def _few_sizes(plan: dict, rows: list[dict]) -> list[str]:
    found = []
    for budget, own in _by_budget(rows).items():
        params = sorted({row["params"] for row in own})
        if len(params) < FEWEST_SIZES:
            found.append(
                f"budget {budget:g} has {len(params)} sizes: with fewer than {FEWEST_SIZES} a "
                "minimum can hardly be told from noise"
            )
        elif params[-1] / params[0] < NARROWEST_SIZES:
            found.append(
                f"the sizes at budget {budget:g} span a factor of {params[-1] / params[0]:.2g} in "
                f"N: the curve will look flat; a factor of {NARROWEST_SIZES} or more shows its sides"
            )
    return found


def _lopsided(plan: dict, rows: list[dict]) -> list[str]:
    found = []
    for budget, own in _by_budget(rows).items():
        skipped = [
            cell["size_param_value"]
            for cell in plan["skipped"]
            if cell["compute_budget"] == budget and "floor" in cell["reason"]
        ]
        kept = [row["size_param_value"] for row in own]
        if len(skipped) > 1 and min(skipped) > max(kept):
            found.append(
                f"the floor of steps drops the {len(skipped)} largest sizes of budget {budget:g}: "
                "its curve may lose its right side; a smaller batch would keep them"
            )
    return found


def _off_centre(plan: dict, rows: list[dict]) -> list[str]:
    found: list[str] = []
    if rows[0]["tokens_per_item"] == 1:
        return found  # images and the like: no published ratio to hold them against
    for budget, own in _by_budget(rows).items():
        ratios = [row["tokens_per_param"] for row in own]
        low, high = min(ratios), max(ratios)
        if len(ratios) > 1 and not low < PUBLISHED_RATIO < high:
            side = "smaller" if high <= PUBLISHED_RATIO else "larger"
            found.append(
                f"budget {budget:g} has {low:.3g} to {high:.3g} tokens per parameter, all on one "
                f"side of the {PUBLISHED_RATIO} that published laws of text find: its minimum may lie "
                f"outside; add {side} sizes"
            )
    return found


def _short(plan: dict, rows: list[dict]) -> list[str]:
    found = []
    shortest = min(rows, key=lambda row: row["steps"])
    if shortest["steps"] < FEWEST_STEPS:
        count = sum(row["steps"] < FEWEST_STEPS for row in rows)
        found.append(
            f"{count} of {len(rows)} runs have fewer than {FEWEST_STEPS} steps (the fewest: "
            f"{shortest['steps']}): too short to reach the loss of their size; use smaller batches"
        )
    warmup = min(row["warmup_steps"] for row in rows)
    if plan["schedule"]["warmup"] > 0 and warmup < SHORTEST_WARMUP:
        found.append(
            f"the shortest warm-up has {warmup} steps: too short to warm anything up; lower the "
            "batch or raise schedule.warmup"
        )
    return found


def _repeated(plan: dict, rows: list[dict]) -> list[str]:
    epochs = [row["epochs"] for row in rows if row["epochs"] is not None]
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


def _far(rows: list[dict], answers: Sequence[float]) -> list[str]:
    largest = max(row["compute_budget"] for row in rows)
    far = [c for c in answers if c > FARTHEST_ANSWER * largest * (1 + 1e-9)]
    return [
        f"an answer is asked for at {c:g} FLOPs, {c / largest:.3g} times the largest budget: beyond "
        f"{FARTHEST_ANSWER} times it is a guess"
        for c in far
    ]
