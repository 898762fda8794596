"""Whether N, D and C of a table are in the same units: C / (N D) is about 6 for what is trained.

Counted FLOPs of small models, of short contexts or of recomputed activations lie between 2 and a few
tens. A table far outside counts its columns in different units, and its law would be nonsense.
"""

import itertools

import numpy as np
import pandas as pd

from flops_fit.constants import FLOPS_PER_PARAM_TOKEN, flops_6nd
from flops_fit.errors import FlopsFitError

LOWEST, HIGHEST = 1.0, 100.0  # of C / (N D)
TYPICAL = (2.0, 20.0)
DATA_PER_SIZE = (1e-4, 1e7)  # of D / N, where one of both was derived
UNITS = {1.0: "", 1e6: "millions", 1e9: "billions", 1e12: "trillions"}
COSTS = {1.0: "", 1e9: "GFLOPs", 1e12: "TFLOPs", 1e15: "PFLOPs", 1e18: "EFLOPs", 8.64e19: "PF-days"}
PLAUSIBLE = {"params": (1e3, 1e13), "tokens": (1e4, 1e15)}
LOGARITHMS = (10.0, 30.0)  # of FLOPs, to base 10
USUAL_SHARE = (0.1, 1e5)  # D / N
COUNTED_AS = {  # C / (N D) of all runs -> what may be counted
    1.0: "multiply-adds (MACs) of the forward pass alone",
    2.0: "the forward pass alone",
    3.0: "multiply-adds (MACs), of which each is two FLOPs",
    8.0: "the recomputation of activations too",
}
ALL = FLOPS_PER_PARAM_TOKEN
PARTS = 0.03  # ln: two costs of a run further apart than this are not the same
FALLS = 0.01  # relative: a cost lower by more than this at more tokens is lower


def check_cost(
    frame: pd.DataFrame, source: str, names: dict[str, str], derived: bool, chosen: bool
) -> None:
    """Refuse runs whose C cannot be what N and D cost, naming the likely units.

    ``frame``: one row per run, columns params, tokens, flops (and budget) and ``row``; ``source``: the
    file; ``names``: its names of these columns; ``derived``: N or D was derived from C, so that the
    ratio says nothing and D / N is looked at; ``chosen``: the cost was chosen by the user, so that a
    budget only groups the runs. Raises `FlopsFitError`.
    """
    if derived:
        _check_share(frame, source, names)
        return
    for cost in ("flops",) if chosen else ("flops", "budget"):
        if cost not in names or cost not in frame:
            continue
        ratio = frame[cost] / (frame["params"] * frame["tokens"])
        off = (ratio < LOWEST) | (ratio > HIGHEST)
        if off.any():
            raise FlopsFitError(_mismatch(frame, ratio, cost, frame.index[off][0], source, names))
    if "flops" in names and (pair := _falling(frame)) is not None:
        few, many = (frame.loc[i] for i in pair)
        raise FlopsFitError(
            f"{source}: column {names['flops']!r} falls as tokens rise: {few['flops']:.4g} in row "
            f"{int(few['row'])} for {few['tokens']:.4g} tokens, {many['flops']:.4g} in row "
            f"{int(many['row'])} for {many['tokens']:.4g}, both of N = {few['params']:.4g}; allowed: "
            f"the FLOPs of the whole training, not a speed or a share {_BELIEVE}"
        )


def parts(log_ratio: pd.Series) -> bool:
    """Whether two costs, of ``log_ratio`` (n,) = ln of the one over the other, differ for most runs."""
    return bool(log_ratio.abs().median() > PARTS)


def compared_costs(frame: pd.DataFrame, names: dict[str, str], unread: list[str]) -> list[str]:
    """Notes on how the cost that is believed differs from 6 N D, and on the columns ``unread``.

    ``frame``: one row per run, columns params, tokens and flops; ``names``: the file's names of these
    columns; ``unread``: columns of the file that may hold a cost too.
    """
    log_ratio = np.log(frame["flops"] / flops_6nd(frame["params"], frame["tokens"]))
    times = _same_times(6 * np.exp(log_ratio))
    if log_ratio.abs().max() > PARTS:
        column = _cost_column(names)
        as_if = f", as if it counted {COUNTED_AS[times]}" if times and times > ALL else ""
        return [
            f"{column} differs from 6 N D by {_span(log_ratio)}{as_if}: the column is believed; "
            "--cost 6nd (fit.cost_column) takes 6 N D"
        ]
    if "flops" in names or not unread:
        return []
    return [
        f"the cost is 6 N D; column {unread[0]!r} is not read as the cost (--cost COLUMN, "
        "fit.cost_column, believes one)"
    ]


def cost_per_token(frame: pd.DataFrame, names: dict[str, str]) -> list[str]:
    """A note where the cost of the runs is not their tokens times the column of FLOPs per token.

    ``frame``: one row per run, columns tokens, flops and maybe flops_per_token; ``names``: the file's
    names of these columns. Whoever corrects the tokens of a plan leaves its costs behind.
    """
    if not {"flops", "flops_per_token"} <= names.keys() & set(frame):
        return []
    log_ratio = np.log(frame["flops"] / (frame["flops_per_token"] * frame["tokens"])).dropna()
    if not log_ratio.abs().max() > PARTS:
        return []
    flops, per_token = names["flops"], names["flops_per_token"]
    return [
        f"column {flops!r} differs from {per_token!r} x tokens by {_span(log_ratio)}: {flops!r} is "
        f"believed; --cost {per_token} (fit.cost_column) takes the product"
    ]


def settle_budgets(frame: pd.DataFrame, marked: pd.DataFrame, names: dict[str, str]) -> list[str]:
    """Give each budget the median cost of its runs where the two differ, and say so in notes.

    ``frame`` and ``marked``, one row per run, are changed: their column budget groups the runs, and
    names the C at which the group's best model was found. ``names``: the file's names of columns.
    """
    if "budget" not in frame or not frame["budget"].notna().any():
        return []
    log_ratio = np.log(frame["budget"] / frame["flops"])
    middle = log_ratio.groupby(frame["budget"]).median()
    moved = middle[middle.abs() > PARTS]
    if not len(moved):
        return []
    for part in (frame, marked):
        if "budget" in part:
            part["budget"] = part["budget"] / np.exp(part["budget"].map(moved).fillna(0.0))
    cost = f"column {names['flops']!r}" if "flops" in names else "6 N D"
    return [
        f"column {names['budget']!r} differs from the cost of the runs by {_span(moved)}: {cost} is "
        "believed, and the budget only groups the runs (--cost COLUMN, fit.cost_column, chooses)"
    ]


def miscounted(frame: pd.DataFrame, names: dict[str, str]) -> list[str]:
    """A reason against trust where the cost seems to count a part of the training only.

    ``frame``: one row per run, columns params, tokens and flops; ``names``: the file's names of these
    columns. A budget in FLOPs then buys less than the law says.
    """
    ratio = frame["flops"] / (frame["params"] * frame["tokens"])
    usual = float(ratio.median())
    if usual > ALL * (1 - PARTS) or (np.log(ratio / usual).abs() > PARTS).any():
        return []
    times = _same_times(ratio)
    what = COUNTED_AS[times] if times else "those of one device, or a part of the training"
    return [
        f"{_cost_column(names)} is {usual:.3g} N D in each run, as if it counted {what}: "
        f"budgets are then counted so too; --cost 6nd (fit.cost_column) takes 6 N D {_BELIEVE}"
    ]


def _cost_column(names: dict[str, str]) -> str:
    known = next((n for n in ("flops", "flops_per_token", "budget") if n in names), None)
    return f"column {names[known]!r}" if known else "the cost"


def _same_times(ratio: pd.Series) -> float | None:
    """The one of `COUNTED_AS` that C / (N D) is in every run; None where it is none of them."""
    near = (times for times in COUNTED_AS if (np.log(ratio / times).abs() < PARTS).all())
    return next(near, None)


def _span(log_ratio: pd.Series) -> str:
    """The range of ratios given by their logarithms, as percentages."""
    low, high = (f"{100 * np.expm1(x):+.0f}%" for x in (log_ratio.min(), log_ratio.max()))
    return low if low == high else f"{low} to {high}"


_BELIEVE = "(--cost-as-given, fit.cost_as_given, believes the column)"


def _mismatch(
    frame: pd.DataFrame, ratio: pd.Series, cost: str, at: int, source: str, names: dict[str, str]
) -> str:
    row = frame.loc[at]
    numbers = ", ".join(f"{names.get(n, n)} {row[n]:.4g}" for n in ("params", "tokens", cost))
    likely = _likely(frame, cost, float(np.exp(np.log(ratio).median())))
    guess = f"; it would fit if {likely}" if likely else ""
    return (
        f"{source}: row {int(row['row'])}: C / (N D) = {ratio[at]:.3g} ({numbers}); allowed: "
        f"{LOWEST:g} to {HIGHEST:g}, about 6 for a transformer and tokens{guess}. Write numbers as "
        f"70M and 1.3B or units into the header (params_M, tokens_B); if column {names[cost]!r} is no "
        f"FLOPs of a whole training, --cost 6nd (fit.cost_column) takes 6 N D {_BELIEVE}"
    )


def _likely(frame: pd.DataFrame, cost: str, ratio: float) -> str:
    """The fewest units that bring C / (N D) to what training costs, as text; "" if none do."""
    if frame[cost].between(*LOGARITHMS).all():
        return f"{cost} were logarithms, which are not read"
    middle = {n: float(frame[n].median()) for n in ("params", "tokens", cost)}
    guesses = []
    for n, d, c in itertools.product(UNITS, UNITS, COSTS):
        scaled = ratio * c / (n * d)
        plausible = all(
            low <= middle[name] * unit <= high
            for (name, (low, high)), unit in zip(PLAUSIBLE.items(), (n, d), strict=True)
        )
        share = middle["tokens"] * d / (middle["params"] * n)
        usual = USUAL_SHARE[0] <= share <= USUAL_SHARE[1]
        if TYPICAL[0] <= scaled <= TYPICAL[1] and plausible and usual:
            units = {"params": UNITS[n], "tokens": UNITS[d], cost: COSTS[c]}
            changes = [f"{what} counted {unit}" for what, unit in units.items() if unit]
            guesses.append((len(changes), abs(np.log(scaled / 6)), " and ".join(changes)))
    if guesses:
        return min(guesses)[2]
    per_token = middle[cost] / middle["params"]
    if LOWEST <= per_token <= HIGHEST:
        return f"{cost} were FLOPs per token (then name it flops_per_token)"
    return "tokens counted items of many tokens each" if HIGHEST < ratio < 1e5 else ""


def _check_share(frame: pd.DataFrame, source: str, names: dict[str, str]) -> None:
    """D / N, where one of both is C / 6 over the other."""
    share = frame["tokens"] / frame["params"]
    off = (share < DATA_PER_SIZE[0]) | (share > DATA_PER_SIZE[1])
    if off.any():
        row = frame.loc[frame.index[off][0]]
        raise FlopsFitError(
            f"{source}: row {int(row['row'])}: {row['params']:.4g} parameters and {row['tokens']:.4g} "
            f"tokens by C = 6 N D, read from {', '.join(repr(c) for c in names.values())}; allowed: "
            f"{DATA_PER_SIZE[0]:g} to {DATA_PER_SIZE[1]:g} tokens per parameter. Are the columns in "
            f"different units? Write 70M and 1.3B, or units into the header (params_M) {_BELIEVE}"
        )


def _falling(frame: pd.DataFrame) -> tuple | None:
    """Two rows of one N, the second of more tokens and lower cost, where most such pairs are so."""
    falls = rises = 0
    example = None
    for _, rows in frame.sort_values("tokens", kind="stable").groupby("params", sort=False):
        tokens, flops = rows["tokens"].to_numpy(), rows["flops"].to_numpy()
        more = tokens[1:] > tokens[:-1] * (1 + FALLS)
        falling = more & (flops[1:] < flops[:-1] * (1 - FALLS))
        falls += int(falling.sum())
        rises += int((more & ~falling).sum())
        if example is None and falling.any():
            at = int(np.flatnonzero(falling)[0])
            example = rows.index[at], rows.index[at + 1]
    return example if falls > rises else None
