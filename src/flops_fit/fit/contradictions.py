"""Columns of a table that contradict each other, and rows that stand apart from the others.

Each check gives sentences: reasons against trust where some rows, or a choice of columns, must be
wrong or mixed, and notes where it may well be right. They look at tables from elsewhere only.
"""

import numpy as np
import pandas as pd
from scipy.special import fdtrc

from flops_fit.constants import flops_6nd
from flops_fit.fit.columns import Columns
from flops_fit.fit.left_out import unread_flags
from flops_fit.fit.names import bare, fold, legible, listed
from flops_fit.fit.tables import spoken_floats

PARTS = 0.03  # ln: two counts of one thing further apart than this are not the same
STEPS = listed(
    "steps step global_step num_steps train_steps total_steps iterations iteration iters iter"
)
BATCHES = listed("batch_size global_batch_size batch bs batch_items total_batch_size")
LENGTHS = listed("seq_len seq_length sequence_length context_length ctx_len block_size max_seq_len")
BATCH_TOKENS = listed(
    "batch_tokens tokens_per_step tokens_per_batch tokens_per_iteration tokens_per_iter"
)
LAST_STEPS = listed("max_steps total_steps num_train_steps train_iters max_iters planned_steps")
PROGRESS = listed("progress fraction_done percent_complete percent_done")
MEANS = {
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
}  # beside a mean loss
SUMMARIES = set(listed("mean average avg median total totals sum std stdev min max"))
SUMMED = 1e-3  # relative: N and D of a row this near to the mean or the sum of the others
FEWEST_ROWS = 6  # to tell a summary from a run
MOST_TOKENS, MOST_PARAMS, MOST_SHARE = 1e16, 1e13, 1e5  # of a run that somebody has trained
REPEATED = 0.05  # share of rows with the numbers of another that narrows an interval
NEIGHBOURS, COSTLIER, FEW = 5, 0.6, 0.2  # of runs by N; ln of C / (N D) off them; share of runs
MOST_GROUPS, FEWEST_PER_GROUP = 8, 3  # values of a column, and runs of each
SURELY, CLEARLY = 1e-6, 0.01  # probability of so much by chance; shift in ln L
APART = 0.4  # share of a group that N and D explain: beyond, it may be an effect of theirs


def contradictions(
    frame: pd.DataFrame, raw: pd.DataFrame, columns: Columns, cost_as_given: bool
) -> tuple[list[str], list[str]]:
    """(notes, reasons against trust) of the checked runs ``frame``.

    ``raw``: the same rows in the file's columns, of which ``columns`` says which were recognised. With
    ``cost_as_given`` the counts are believed however large they are.
    """
    notes, reasons = _steps(frame, raw)
    notes += unread_flags(raw, columns.names)
    reasons += _other_tokens(frame, raw, columns) + _mean_loss(raw, columns) + _stopped(frame, raw)
    reasons += _summaries(frame, raw) + _off_cost(frame, columns) + _multiplied(frame, raw, columns)
    again, few = _same_numbers(frame)
    notes, reasons = (notes + again, reasons) if few else (notes, reasons + again)
    reasons += [] if cost_as_given else _too_large(frame)
    if fold(columns.names.get("params", "")) == "params" and columns.others.get("params"):
        others = ", ".join(legible(c) for c, _ in columns.others["params"])
        notes.append(f"N is column {legible(columns.names['params'])}; there is also {others}")
    return notes, reasons


def _row(frame: pd.DataFrame, which: pd.Series) -> int:
    """The number in the file of the first row that is meant."""
    return int(frame.loc[which.idxmax(), "row"])


def _other_tokens(frame: pd.DataFrame, raw: pd.DataFrame, columns: Columns) -> list[str]:
    """Another column of tokens that says otherwise: those of a device, or as planned."""
    for column, unit in columns.others.get("tokens", ()):
        if "token" not in fold(column):  # a d may be a depth
            continue
        log_ratio = np.log(_positive(raw[column]) * unit / frame["tokens"])
        if log_ratio.abs().max() > PARTS:
            low, high = (f"{np.exp(x):.3g}" for x in (log_ratio.min(), log_ratio.max()))
            span = low if low == high else f"{low} to {high}"
            return [
                f"column {legible(columns.names['tokens'])} is read as tokens, but {legible(column)} is "
                f"{span} times as much: delete the one that is not the tokens of the whole training"
            ]
    return []


def _positive(column: pd.Series) -> pd.Series:
    values = spoken_floats(column)[0]
    return values.where((values > 0) & np.isfinite(values))


def _column(raw: pd.DataFrame, names: list[str]) -> tuple[str, pd.Series] | None:
    """The first column of ``raw`` called one of ``names`` that has numbers, and these."""
    folded = {bare(fold(c)): c for c in reversed(list(raw.columns))}
    for name in names:
        if name in folded and (values := _positive(raw[folded[name]])).notna().any():
            return folded[name], values
    return None


def _steps(frame: pd.DataFrame, raw: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Tokens that are not steps times the tokens of a batch."""
    steps, each = _column(raw, STEPS), _column(raw, BATCH_TOKENS)
    batch, length = _column(raw, BATCHES), _column(raw, LENGTHS)
    if each is None and batch and length:
        each = f"{batch[0]} x {length[0]}", batch[1] * length[1]
    if steps is None or each is None:
        return [], []
    log_ratio = np.log(frame["tokens"] / (steps[1] * each[1])).dropna()
    product = f"{steps[0]} x {each[0]}"
    if log_ratio.empty or not log_ratio.abs().max() > PARTS:
        return [], []
    middle = log_ratio.median()
    off = (log_ratio - middle).abs() > PARTS
    if not off.any():
        return [f"tokens are {np.exp(middle):.3g} times {product} in every row"], []
    if off.mean() > 0.5:
        return [f"tokens are not {product}"], []
    usual, first = np.exp(middle), np.exp(log_ratio[off].iloc[0])
    return [], [
        f"tokens are {usual:.3g} times {product}, but {first:.3g} times "
        f"in row {_row(frame, off)} ({off.sum()} such rows): were these runs stopped early, or are "
        "their tokens wrong? Correct such rows, or mark them (status, outlier)"
    ]


def _stopped(frame: pd.DataFrame, raw: pd.DataFrame) -> list[str]:
    """Runs that ended before their last step, beside others that did not."""
    step, last, share = _column(raw, STEPS[:3]), _column(raw, LAST_STEPS), _column(raw, PROGRESS)
    if step and last and step[0] != last[0]:
        name, done = f"{step[0]} of {last[0]}", step[1] / last[1]
    elif share:
        name, done = share[0], share[1] / share[1].max()
    else:
        return []
    early = done < 1 - PARTS
    if not early.any() or early.all():
        return []
    return [
        f"{early.sum()} of {len(frame)} runs ended early by {name} ({done[early].iloc[0]:.0%} in row "
        f"{_row(frame, early)}): their loss is not that of a finished run; delete such rows, or mark "
        "them (status, outlier)"
    ]


def _mean_loss(raw: pd.DataFrame, columns: Columns) -> list[str]:
    """The training loss of Hugging Face's Trainer at the end: a mean over all of its steps."""
    name = columns.names["loss"]
    if bare(fold(name)) != "train_loss" or not MEANS & {bare(fold(c)) for c in raw.columns}:
        return []
    return [
        f"column {legible(name)} beside {legible('train_runtime')} is the mean over the whole training, "
        "as Hugging Face's Trainer writes it, not the loss at its end: use eval_loss"
    ]


def _summaries(frame: pd.DataFrame, raw: pd.DataFrame) -> list[str]:
    """Rows such as the last one of a spreadsheet: named like a mean, or with N and D of one."""
    named = raw.map(lambda cell: isinstance(cell, str) and cell.strip().lower() in SUMMARIES)
    named = named.loc[:, named.sum() <= max(1, len(raw) // FEWEST_ROWS)].any(axis=1)
    reasons = []
    for at in frame.index[named]:
        name = next(c for c in raw.loc[at] if isinstance(c, str) and c.strip().lower() in SUMMARIES)
        row = int(frame.loc[at, "row"])
        reasons.append(
            f"row {row} is named {legible(name)}: a summary of runs is no run; delete it"
        )
    counts = frame[["params", "tokens"]]
    if reasons or len(frame) < FEWEST_ROWS or (counts.nunique() < 3).any():
        return reasons
    last, others = counts.iloc[-1], counts.iloc[:-1]
    for what, values in (("mean", others.mean()), ("sum", others.sum())):
        if ((last / values - 1).abs() < SUMMED).all():
            row = int(frame["row"].iloc[-1])
            reasons.append(
                f"row {row} has the {what} of N and D of the others: delete it if it is no run"
            )
    return reasons


def _same_numbers(frame: pd.DataFrame) -> tuple[list[str], bool]:
    """A sentence on rows with the numbers of another, and whether they are too few to matter."""
    names = [c for c in ("params", "tokens", "flops", "loss", "seed") if c in frame]
    again = frame.duplicated(names)
    if not again.any():
        return [], True
    sentence = (
        f"{again.sum()} rows repeat N, D and the loss of another (row {_row(frame, again)}): the same "
        "run twice makes the interval too narrow; delete such rows, or give repeats a column seed"
    )
    return [sentence], bool(again.mean() < REPEATED)


def _off_cost(frame: pd.DataFrame, columns: Columns) -> list[str]:
    """A few runs whose C / (N D) is not that of runs of about their N."""
    if "flops" not in columns.names or len(frame) < NEIGHBOURS + 2:
        return []
    log_ratio = np.log(frame["flops"] / (frame["params"] * frame["tokens"]))
    ordered = log_ratio[frame["params"].sort_values(kind="stable").index]
    usual = ordered.rolling(NEIGHBOURS, center=True, min_periods=3).median().ffill().bfill()
    off = (ordered - usual)[frame.index].abs() > COSTLIER
    if not 0 < off.mean() <= FEW:
        return []
    times = np.exp((ordered - usual)[off.idxmax()])
    return [
        f"{off.sum()} of {len(frame)} runs have another C / (N D) than runs of about their N "
        f"({times:.3g} times in row {_row(frame, off)}): are their tokens or FLOPs wrong? Correct such "
        "rows, or mark them (status, outlier)"
    ]


def _multiplied(frame: pd.DataFrame, raw: pd.DataFrame, columns: Columns) -> list[str]:
    """A cost of 6 N D times another column: tokens of one device, or of one pass over the data."""
    log_ratio = np.log(frame["flops"] / flops_6nd(frame["params"], frame["tokens"]))
    if log_ratio.abs().median() < PARTS:
        return []
    known = {columns.names.get(name) for name in ("params", "tokens", "flops", "budget", "loss")}
    for column in (c for c in raw.columns if c not in known):
        if (np.log(_positive(raw[column])) - log_ratio).abs().fillna(np.inf).max() < PARTS:
            tokens = legible(columns.names.get("tokens", "tokens"))
            return [
                f"the cost is 6 N D times column {legible(column)}: if {tokens} are those of one "
                "of so many parts, multiply them by it"
            ]
    return []


def _too_large(frame: pd.DataFrame) -> list[str]:
    """Counts that no run has: units counted twice, or left out."""
    reasons = [
        f"{name} are up to {frame[name].max():.3g}: is the unit in the header already in the numbers?"
        for name, most in (("params", MOST_PARAMS), ("tokens", MOST_TOKENS))
        if frame[name].max() > most
    ]
    many = frame["tokens"] > MOST_SHARE * frame["params"]
    if many.mean() > 0.5 and not reasons:
        reasons.append(
            f"{many.sum()} of {len(frame)} runs have more than {MOST_SHARE:,.0f} tokens per parameter: "
            "do params count thousands or millions? Write 70M, or name the column params_M "
            "(--cost-as-given, fit.cost_as_given, believes them)"
        )
    return reasons


def shifted(frame: pd.DataFrame, cells: pd.Series) -> float:
    """How far apart the groups named by ``cells`` (n,) lie in ln L at the same N and D.

    ``frame`` has a row per run. Returns 0 where they do not clearly lie apart. Groups that N and D
    themselves tell apart do not count.
    """
    sizes = cells.value_counts()
    if not 2 <= len(sizes) <= MOST_GROUPS or sizes.min() < FEWEST_PER_GROUP:
        return 0.0
    x, y = (np.log(frame[name]) - np.log(frame[name]).mean() for name in ("params", "tokens"))
    basis = np.stack([x**0, x, y, x**2, x * y, y**2], axis=1)
    member = np.stack([cells == value for value in sizes.index[1:]], axis=1).astype(float)
    left = len(frame) - basis.shape[1] - member.shape[1]
    if left < FEWEST_ROWS:
        return 0.0
    explained = _missed(basis, member) / (len(frame) * member.var(axis=0))
    if (explained < 1 - APART).any():
        return 0.0
    loss = np.log(frame["loss"].to_numpy())[:, None]
    both = np.hstack([basis, member])
    without, with_groups = _missed(basis, loss)[0], _missed(both, loss)[0]
    f = (without - with_groups) / member.shape[1] / max(with_groups / left, 1e-300)
    moved = np.append(np.linalg.lstsq(both, loss, rcond=None)[0][basis.shape[1] :, 0], 0.0)
    return (
        float(np.ptp(moved))
        if fdtrc(member.shape[1], left, f) < SURELY and np.ptp(moved) > CLEARLY
        else 0.0
    )


def _missed(basis: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The sum of squares of each column of ``values`` that ``basis`` leaves."""
    fitted = basis @ np.linalg.lstsq(basis, values, rcond=None)[0]
    return ((values - fitted) ** 2).sum(axis=0)
