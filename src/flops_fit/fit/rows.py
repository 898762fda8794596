"""Which rows of a table are runs: choices among them, and doubts about those that are left.

The fit takes each row for a run of its own at the end of its training. Checkpoints of one run, several
evaluations of one run, a search over learning rates, or two data sets in one table are not that.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from flops_fit.constants import MOST_EPOCHS
from flops_fit.errors import FlopsFitError
from flops_fit.fit.columns import Columns
from flops_fit.fit.contradictions import contradictions, shifted
from flops_fit.fit.names import bare, fold, legible, listed, named_column
from flops_fit.fit.plain import OMITTED
from flops_fit.fit.tables import floats, spoken_floats

# A word of a column's name -> its values are groups that one law should not mix.
KINDS = set(
    listed("""dataset data corpus corpora mixture mix domain language lang source model family arch
    architecture optimizer optimiser opt split subset eval evaluation task benchmark metric tokenizer tok
    tokeniser schedule scheduler recipe variant method ablation experiment sweep group project
    activation attention objective modality kind type parameterization precision checkpoint ckpt
    setting suite""")
)
NUMBER_KINDS = set(listed("context seq sequence vocab vocabulary experts sparsity checkpoint ckpt"))
TUNED = set(
    listed("""lr learning_rate peak_lr max_lr peak_learning_rate bs batch batch_size batch_items
    global_batch_size weight_decay wd warmup warmup_steps beta1 beta2 momentum dropout init_std
    epsilon eps""")
)
MOST_SHOWN = 4  # values of a column in a sentence
MOST_VALUES = 50  # a column with more values than this names rows, not groups
PASSES_APART = 0.1  # relative: epochs and tokens / unique tokens further apart are not the same
EVEN = 0.02  # relative: steps that differ less than this are equal
FEWEST_CHECKPOINTS = 4  # of one N at evenly spaced tokens
POSITIONS = set(listed("step global_step train_step iter iteration epoch"))  # within a run
SMALLEST_COUNT = 1e4  # of parameters or tokens; below, a table probably counts millions
FARTHEST = {"params": 1e5, "tokens": 1e5, "loss": 1e3}  # factor from the median of the runs


@dataclass(frozen=True)
class LeftOut:
    """A run left out of the fit: its name, its row in the table, and why."""

    experiment_id: str = field(metadata={"before": "run_id"})  # its name
    row: int
    reason: str  # outlier, a status, or how far off it lies


@dataclass(frozen=True)
class Reading:
    """How a table is to be read where it leaves a choice.

    ``loss_column``: the file's column of the loss (default: the held-out one). ``where``:
    "COLUMN=VALUE" texts that a row must meet, several values of one column meaning any of them.
    ``last_per``, ``best_per``: columns of whose groups only the row of the most tokens, or of the
    lowest loss, is a run ("experiment_id"; "params,tokens"). ``max_epochs``: runs that read their
    data more often are left out. ``cost_as_given``: C is believed however far it is from 6 N D.
    ``cost_column``: the file's column of C (default: the FLOPs, else the budget, else 6 N D), or "6nd".
    ``accuracy``: the file's column of an accuracy, from 0 to 1, to be predicted beside the loss.
    """

    loss_column: str | None = None
    where: tuple[str, ...] = ()
    last_per: str | None = None
    best_per: str | None = None
    max_epochs: float | None = None
    cost_as_given: bool = False
    cost_column: str | None = None
    accuracy: str | None = field(default=None, metadata=OMITTED)

    def __post_init__(self) -> None:
        object.__setattr__(self, "where", tuple(self.where))  # JSON has lists
        most = self.max_epochs
        if most is not None and not most > 0:
            raise FlopsFitError(f"max_epochs: {most!r}; allowed: a positive number")
        for condition in self.where:
            if not condition.partition("=")[0].strip() or "=" not in condition:
                raise FlopsFitError(f"where: {condition!r}; allowed: COLUMN=VALUE")


def where(
    frame: pd.DataFrame, conditions: Iterable[str], source: str
) -> tuple[pd.DataFrame, list[str]]:
    """The rows of ``frame`` that meet every one of the ``conditions``, and a note on how many do.

    ``source`` names the file in messages. Raises `FlopsFitError` where no row does.
    """
    asked: dict[str, list[str]] = {}
    for condition in conditions:
        name, _, value = condition.partition("=")
        column = named_column(frame, name.strip(), f"{source}: where: column")
        asked.setdefault(column, []).append(value.strip())
    kept = pd.Series(True, frame.index)
    for column, values in asked.items():
        here = pd.Series(False, frame.index)
        for value in values:
            here |= _equals(frame[column], value)
        if not here.any():
            raise FlopsFitError(
                f"{source}: where: no row has {column}={' or '.join(values)}; found "
                f"{_some(frame[column])}"
            )
        kept &= here
    if not kept.any():
        raise FlopsFitError(f"{source}: where: no row meets {' and '.join(conditions)}")
    if not asked:
        return frame, []
    return frame[kept], [f"{kept.sum()} of {len(frame)} rows: where {' and '.join(conditions)}"]


def _equals(column: pd.Series, value: str) -> pd.Series:
    """Where a cell is ``value``, as text or as a number."""
    same = column.map(_text) == value
    try:
        return same | (floats(column) == float(value))
    except ValueError:
        return same


def _text(cell: object) -> str:
    return "" if cell is None or cell is pd.NaT or cell != cell else str(cell).strip()


def _some(column: pd.Series) -> str:
    """The first few values of a column, as text."""
    values = [text for text in dict.fromkeys(column.map(_text)) if text]
    more = f" and {len(values) - MOST_SHOWN} more" if len(values) > MOST_SHOWN else ""
    return ", ".join(values[:MOST_SHOWN]) + more if values else "nothing in it"


def one_per_group(
    frame: pd.DataFrame, raw: pd.DataFrame, how: Reading, source: str
) -> tuple[pd.DataFrame, list[str]]:
    """``frame`` with the last and the best row of each group only, and notes on it.

    ``how`` names the columns that make the groups; ``raw``: the file's columns, for rows that ``frame``
    has too; ``source`` names the file in messages.
    """
    notes = []
    for which, names, key, highest in (
        ("the last", how.last_per, "tokens", True),
        ("the best", how.best_per, "loss", False),
    ):
        if names is None:
            continue
        before, groups = len(frame), []
        for name in names.split(","):
            ours = fold(name).replace("run_id", "experiment_id")
            known = frame if ours in frame else raw.loc[frame.index]
            what = f"{source}: {which.split()[1]} per: column"
            column = ours if ours in frame else named_column(raw, name.strip(), what)
            groups.append(known[column].map(_text))
        order = spoken_floats(frame[key])[0] if key in frame else pd.Series(0.0, frame.index)
        ranked = frame.assign(order_=order if highest else -order.where(order > 0))
        ranked = ranked.sort_values("order_", kind="stable", na_position="first")
        keep = ranked.groupby([g.loc[ranked.index] for g in groups], sort=False).tail(1).index
        frame = frame.loc[frame.index.isin(keep)]
        notes.append(f"{len(frame)} of {before} rows: {which} per {names}")
    return frame, notes


def too_many_epochs(frame: pd.DataFrame, most: float) -> pd.Series:
    """Which rows of ``frame`` are known to read their data more than ``most`` times."""
    if "epochs" not in frame:
        return pd.Series(False, frame.index)
    return frame["epochs"] > most * (1 + 1e-9)


# Doubts


def doubts(
    frame: pd.DataFrame, raw: pd.DataFrame, columns: Columns, cost_as_given: bool = False
) -> tuple[list, list]:
    """(notes, reasons against trust) on rows that do not look like runs of one recipe.

    ``frame``: the checked runs; ``raw``: the same rows in the file's columns; ``columns`` say which of
    those were recognised. With ``cost_as_given`` the tokens are believed however few they are.
    """
    notes, reasons = [], []
    repeated = _repeated(frame, columns)
    reasons += repeated
    known = set(columns.names.values()) - {columns.names.get("experiment_id")}
    others = [c for c in raw.columns if c not in known]
    by_kind, by_name = _groups(frame, raw[others])
    reasons += by_kind
    notes += by_name
    if not repeated:
        reasons += _searched(frame, raw[others], bool(by_kind))
        even = _evenly_spaced(frame)
        reasons += even
        notes += [] if even else _positions(frame, raw)
    more = contradictions(frame, raw, columns, cost_as_given)
    notes, reasons = notes + more[0], reasons + more[1]
    for name in ("params", "tokens"):
        if frame[name].max() < SMALLEST_COUNT:
            reasons.append(
                f"{name} are at most {frame[name].max():.4g}: if they count millions or billions, "
                f"write 70M or 1.3B, or name the column {name}_M or {name}_B; logarithms are not read"
            )
    reasons += _far_from_others(frame)
    few = frame["tokens"] < frame["params"]
    if few.mean() > 0.5 and not cost_as_given:
        reasons.append(
            f"{few.sum()} of {len(frame)} runs have fewer tokens than parameters: tokens must be those "
            "of the whole training, not steps, items or billions, and the columns must not be swapped "
            "(--cost-as-given, fit.cost_as_given, believes them)"
        )
    return notes, reasons


def _far_from_others(frame: pd.DataFrame) -> list[str]:
    """Runs whose numbers are of another kind than those of the others: one such run can move a law."""
    reasons = []
    for name, factor in FARTHEST.items():
        far = np.log(frame[name] / frame[name].median()).abs() > np.log(factor)
        if far.any():
            first = frame.loc[far.idxmax()]
            reasons.append(
                f"{far.sum()} of {len(frame)} runs have {name} more than {factor:g} times away from the "
                f"median ({first[name]:.4g} in row {int(first['row'])}): is a unit left out, or a "
                "column shifted? Correct such rows, or mark them (status, outlier)"
            )
    return reasons


def _evenly_spaced(frame: pd.DataFrame) -> list[str]:
    """Rows of one N whose tokens grow by equal amounts, as those of logged checkpoints do."""
    if "epochs" in frame:  # passes over the data are evenly spaced too
        return []
    even = 0
    sizes = frame.groupby("params")["tokens"]
    for _, tokens in sizes:
        steps = np.diff(np.unique(tokens))
        even += len(steps) >= FEWEST_CHECKPOINTS - 1 and np.ptp(steps) <= EVEN * steps.mean()
    if even <= 0.5 * sizes.ngroups:
        return []
    return [
        "the tokens of one N grow in equal steps: rows that are checkpoints of one run are not runs of "
        "their own (--last-per params keeps the last of each)"
    ]


def _positions(frame: pd.DataFrame, raw: pd.DataFrame) -> list[str]:
    """A note on a column that may say how far in its run a row was logged."""
    for column in (c for c in raw.columns if bare(fold(c)) in POSITIONS):
        several = raw[column].map(_text).groupby(frame["params"]).nunique() > 1
        if several.mean() > 0.5:
            return [
                f"column {legible(column)} has several values for one N: taken as runs of their own; if "
                "they are checkpoints, --last-per params keeps the last of each"
            ]
    return []


def _repeated(frame: pd.DataFrame, columns: Columns) -> list[str]:
    """Several rows of one run: checkpoints, or evaluations at the same number of tokens."""
    if "experiment_id" not in columns.names:
        return []
    key = ["experiment_id", *(c for c in ("seed",) if c in frame)]
    rows = frame[frame.duplicated(key, keep=False)]
    if rows.empty or (rows.groupby("experiment_id")["params"].nunique() > 1).any():
        return []  # an id with several N is a group, not a run
    runs = frame.drop_duplicates(key)
    name = columns.names["experiment_id"]
    several = rows.groupby(key)["tokens"].nunique().max() > 1
    what = "checkpoints" if several else "evaluations"
    advice = (
        f"--last-per {name} keeps the last of each" if several else "--where keeps one kind of them"
    )
    return [
        f"{len(frame)} rows are {len(runs)} runs by {legible(name)}: {what} of one run are not runs of "
        f"their own ({advice})"
    ]


def _groups(frame: pd.DataFrame, raw: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Sentences on columns of ``raw`` that split the runs: those known as kinds, and the rest."""
    kinds, rest = [], []
    for column in raw.columns:
        folded = fold(column)
        parts = set(folded.split("_"))
        text = not _numeric(raw[column])
        known = parts & (KINDS if text else NUMBER_KINDS)
        cells = raw[column].map(_text)
        apart = 0.0 if known or bare(folded) in TUNED | POSITIONS else shifted(frame, cells)
        if apart:
            kinds.append(
                f"column {legible(column)} splits the runs ({_some(raw[column])}): at the same N and D "
                f"their losses differ by {np.expm1(apart):.0%}, so one law for all of them mixes them "
                f"(--where {column}=VALUE)"
            )
        if apart or not (text or known):
            continue
        values = cells[cells != ""]
        if not 2 <= values.nunique() <= min(MOST_VALUES, len(frame) / 2):
            continue
        sizes = frame["params"].groupby(values).nunique()
        if (sizes > 1).sum() < 2:  # each value has one N: the name of a size
            continue
        sentence = f"column {legible(column)} has {values.nunique()} values ({_some(raw[column])})"
        if known:
            kinds.append(f"{sentence}: one law for all of them mixes them (--where {column}=VALUE)")
        else:
            rest.append(sentence)
    return kinds, rest


def _numeric(column: pd.Series) -> bool:
    known = column[column.map(_text) != ""]
    return bool(len(known)) and bool(floats(known).notna().all())


def _searched(frame: pd.DataFrame, raw: pd.DataFrame, grouped: bool) -> list[str]:
    """Cells of one N and D whose runs differ in what is tuned: only the best of each is the law's."""
    cells = frame.groupby(["params", "tokens"]).ngroup()
    tuned = [c for c in raw.columns if bare(fold(c)) in TUNED]
    varied = [c for c in tuned if (raw[c].map(_text).groupby(cells).nunique() > 1).any()]
    sizes = cells.value_counts()
    many = int((sizes > 1).sum())
    if not many or grouped:
        return []
    if varied:
        return [
            f"{int(sizes[sizes > 1].sum())} rows share N and D with others and differ in "
            f"{', '.join(map(legible, varied[:MOST_SHOWN]))}: a search, of which only the best runs lie "
            "on the law (--best-per params,tokens)"
        ]
    explained = [c for c in ("seed", "epochs") if c in frame]  # passes have a reason of their own
    if not explained and sizes.max() >= 3:
        return [
            f"up to {int(sizes.max())} rows share N and D, and no column says why: taken as repeats "
            "(--best-per params,tokens keeps the best of each)"
        ]
    return []


def on_repeats(frame: pd.DataFrame) -> list[str]:
    """A note where rows of ``frame`` read their data more often than repeats are worth."""
    if "epochs" not in frame:
        return []
    many = int((frame["epochs"] > MOST_EPOCHS).sum())
    if not many:
        return []
    return [
        f"{many} of {len(frame)} runs read their data more than {MOST_EPOCHS:g} times; --max-epochs "
        f"{MOST_EPOCHS:g} (fit.max_epochs) leaves them out"
    ]


def contradicting_passes(frame: pd.DataFrame) -> list[str]:
    """A note where the epochs of ``frame``, one row per run, are not its tokens over unique_tokens."""
    if not {"epochs", "unique_tokens"} <= set(frame):
        return []
    unique = frame["unique_tokens"].where(frame["unique_tokens"] > 0)
    passes = frame["tokens"] / unique
    off = (passes / frame["epochs"] - 1).abs() > PASSES_APART
    off &= passes > 1
    if not off.any():
        return []
    first = frame.loc[off.idxmax()]
    return [
        f"{off.sum()} of {len(frame)} runs have {first['epochs']:.3g} epochs, but tokens of "
        f"{passes[off.idxmax()]:.3g} times unique_tokens (row {int(first['row'])}): the epochs are "
        "believed; delete the column that is wrong"
    ]
