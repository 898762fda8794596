"""Which column of a table is what: the names that other projects and trackers use.

Names are compared in lower case with every separator as "_", first whole, then without the
prefixes of trackers ("summary.eval/loss", "config.n_params"). Held-out losses come before training
losses. Every choice among several columns is said in a note.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.fit.tables import digits, has_decimal_commas, scaled, spoken_floats


def listed(text: str) -> list[str]:
    """The words of a text, so that long lists of names stay readable."""
    return text.split()


# Canonical column -> names met in other people's tables, most trusted first. Among them those of
# Gemstones (params_active_precise), Stanford CS336 (parameters), Epoch (Model Size), marin and
# levanter (parameter_count, throughput/total_tokens), Hugging Face's Trainer
# (num_input_tokens_seen, total_flos), OLMo, nanochat and kyo-takano/chinchilla (C, N, D).
_NAMES = {
    "experiment_id": """run_id run_name label name experiment exp_name exp_id run id display_name
        trial_id trial job_id wandb_id""",
    "params": """params_active_precise active_params params_active num_active_params n_active_params
        num_params parameters parameter model_size n_params params_total total_params total_parameters
        num_parameters n_parameters parameter_count param_count params_count model_params
        model_parameters trainable_params nparams params_nonembedding non_embedding_params
        params_non_embedding n_params_non_embedding num_non_embedding_params params_no_embed
        params_planned n""",
    "tokens": """num_tokens n_tokens tokens_trained training_tokens train_tokens total_tokens
        tokens_seen num_tokens_seen n_tokens_seen num_input_tokens_seen global_train_tokens_seen
        consumed_tokens tokens_consumed tokens_processed trained_tokens tokens_total token_count
        train_tokens_seen ntokens num_train_tokens num_training_tokens tokens_planned
        d""",
    "flops": """actual_flops training_flop training_flops train_flops total_flops total_training_flops
        num_flops n_flops flops_total flop total_flos training_compute train_compute total_compute
        compute compute_flops flops_counted achieved_flops model_flops pf_days c""",
    "budget": """budget_flops compute_budget flops_budget flop_budget isoflop_budget isoflop
        target_flops flops_target target_compute""",
    "flops_per_token": "flops_per_token_att flops_per_token_cc",
    "size": "size_param_value model_dim hidden_dim width depth d_model n_embd hidden_size",
    "seed": "random_seed rng_seed model_seed train_seed trainer_seed",
    "outlier": "is_outlier",
    "status": "state run_state run_status",
    "epochs": "num_epochs n_epochs epoch train_epoch train_epochs passes",
    "unique_tokens": "num_unique_tokens n_unique_tokens unique_data_tokens tokens_unique dataset_tokens",
}
ALIASES = {name: tuple(listed(aliases)) for name, aliases in _NAMES.items()}
HELD_OUT_LOSS, OTHER_LOSS, TRAINING_LOSS = "held-out *", "*", "training *"  # any other of the kind
LOSSES = (
    *listed(
        "heldout_loss held_out_loss holdout_loss val_loss valid_loss validation_loss eval_loss"
    ),
    *listed("evaluation_loss dev_loss test_loss"),
    HELD_OUT_LOSS,
    *listed("final_loss loss loss_nats"),
    OTHER_LOSS,
    *listed("final_train_loss train_loss training_loss"),
    TRAINING_LOSS,
)
NUMBERS = ("params", "tokens", "flops", "budget", "flops_per_token", "unique_tokens")
WITH_UNITS = ("params", "tokens", "flops", "budget")  # whose header may name a unit: params_M
EXACT = ("status", "outlier", "size", "unique_tokens")  # model_state and data_size are neither
HELD_OUT = set(listed("val valid validation eval evaluation test heldout held holdout dev"))
TRAINING = {"train", "training"}
LOSS_WORDS = {"loss", "nll", "xent", "bpb", "ce"}
NO_LOSS = set(
    listed("""se std sd sem stderr err var variance scale unit curve aux z zloss lb balance balancing
    router type function fn column delta diff rank min max weight count step""")
)
PERPLEXITY = {"ppl", "perplexity", "perplexities"}
TRACKERS = set(
    listed("""summary config metrics results result hparams hyperparameters args final last history model
    run throughput training trainer data""")
)
UNITS = {
    **dict.fromkeys(listed("k thousand thousands"), 1e3),
    **dict.fromkeys(listed("m mm million millions"), 1e6),
    **dict.fromkeys(listed("b bn billion billions"), 1e9),
    **dict.fromkeys(listed("t tn trillion trillions"), 1e12),
}
PREFIXES = {
    **{"g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21},
    **{"giga": 1e9, "tera": 1e12, "peta": 1e15, "exa": 1e18, "zetta": 1e21},
}
PF_DAYS = re.compile(r"(.*_)?(pf|pflops?|petaflops?)(_s)?_?days?")  # petaflop_s_days, c_pf_days
PF_DAY = 8.64e19  # FLOPs
SIX_ND = "6nd"  # asks for C = 6 N D, whatever columns there are
COST_WORDS = {"flop", "flops", "flos", "compute", "macs", "tflops", "gflops", "pflops", "eflops"}
SPEEDS = set(
    listed("s sec second seconds per mfu utilization utilisation speed rate throughput peak")
)
MOST_NAMED = 5  # columns of a list in a note


@dataclass
class Columns:
    """Columns under our names. ``names``: ours -> the file's; ``loss_unit`` as `RunTable` has it."""

    frame: pd.DataFrame  # under our names
    names: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what was recognised
    loss_unit: str = "nats"
    decimal_commas: bool = False  # of the losses, and then of the whole file


def fold(name: object) -> str:
    """The column's ``name`` in lower case with every separator as one underscore."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", str(name).strip())  # numParams
    return re.sub(r"[\W_]+", "_", text.lower()).strip("_")


def bare(folded: str) -> str:
    """A folded name without the prefixes of trackers."""
    parts = folded.split("_")
    while len(parts) > 1 and parts[0] in TRACKERS:
        parts = parts[1:]
    return "_".join(parts)


def _scaled_name(folded: str) -> tuple[str, float]:
    """A name without its unit, and the unit: params_m is params, 1e6; total_gflops is total_flops."""
    if PF_DAYS.fullmatch(folded):
        return "pf_days", PF_DAY
    match = re.fullmatch(rf"(?:(.*)_)?({'|'.join(PREFIXES)})(flops?|flos)(_.*)?", folded)
    if match:
        return f"{match[1] + '_' if match[1] else ''}{match[3]}{match[4] or ''}", PREFIXES[match[2]]
    power = re.fullmatch(r"(.+)_x?(1e\d+)", folded)  # tokens (1e9)
    if power:
        return power[1], float(power[2])
    head, _, unit = folded.rpartition("_")
    head = head.removesuffix("_in")
    return (head, UNITS[unit]) if head and unit in UNITS else (folded, 1.0)


def columns_for(frame: pd.DataFrame, name: str) -> list[tuple[str, float]]:
    """(column, its unit) of every column of ``frame`` that may be ``name``, the best first."""
    units: dict[str, float] = {}
    folded = {column: fold(column) for column in frame.columns}
    ways = (
        {c: (f, 1.0) for c, f in folded.items() if not PF_DAYS.fullmatch(f)},
        {c: (bare(f), 1.0) for c, f in folded.items() if not PF_DAYS.fullmatch(f)},
        {c: _scaled_name(f) for c, f in folded.items()},
        {c: _scaled_name(bare(f)) for c, f in folded.items()},
    )
    used = 1 if name in EXACT else 4 if name in WITH_UNITS else 2
    for way in ways[:used]:
        for alias in (name, *ALIASES[name]):
            for column, (candidate, unit) in way.items():
                if candidate == alias and column not in units:
                    units[column] = unit
    return list(units.items())


def _has_numbers(column: pd.Series) -> bool:
    return bool(spoken_floats(column)[0].notna().any())


def recognise(
    frame: pd.DataFrame, source: str, loss_column: str | None = None, cost_column: str | None = None
) -> Columns:
    """``frame`` with our names for its columns, numbers read as people write them.

    ``loss_column`` names the file's column of the loss, which is else chosen by `LOSSES`, and
    ``cost_column`` that of C, or is "6nd" for none; ``source`` names the file in messages.
    """
    out = Columns(pd.DataFrame(index=frame.index))
    _take_loss(frame, source, loss_column, out)
    if cost_column is not None and fold(cost_column) != SIX_ND:
        _take_cost(frame, source, cost_column, out)
    for name in ALIASES:
        if cost_column is not None and name in ("flops", "flops_per_token"):
            continue
        possible = [
            (column, unit)
            for column, unit in columns_for(frame, name)
            if column not in out.names.values()
        ]
        if (
            name in NUMBERS
        ):  # the names of models are no sizes; a column of our own name is a number
            possible = [
                (column, unit)
                for column, unit in possible
                if fold(column) == name or _has_numbers(frame[column])
            ]
        if possible:
            _take(frame, name, possible, out)
    return out


def _take(frame: pd.DataFrame, name: str, possible: list[tuple[str, float]], out: Columns) -> None:
    """Put the first of the ``possible`` columns into ``out`` as ``name``, and say which it was."""
    (column, unit), *others = possible
    cells = frame[column]
    if name in NUMBERS:
        values, example = spoken_floats(cells, out.decimal_commas)
        if example:
            out.notes.append(f"column {legible(column)}: {example}")
        in_cells = scaled(cells) if example else pd.Series(False, cells.index)
        if in_cells.all():
            unit = 1.0  # 70M: the unit stands in the cells, not in the header
        values = values.where(in_cells, values * unit)
        if example or unit != 1.0:
            cells = values.where(values.notna(), cells)
    out.names[name] = column
    out.frame[name] = cells
    if fold(column) in (name, "run_id") or name in ("epochs", "unique_tokens"):
        return
    times = f", times {digits(unit)}" if unit != 1.0 else ""
    there = "" if name == "experiment_id" else _there_too([c for c, _ in others])
    out.notes.append(f"column {legible(column)} read as {name}{times}{there}")


def _take_cost(frame: pd.DataFrame, source: str, asked: str, out: Columns) -> None:
    """Put the column that is asked for as the cost into ``out``; a budget still groups the runs."""
    column = named_column(frame, asked, f"{source}: cost column")
    names = ("flops_per_token", "budget", "flops")
    units = {name: dict(columns_for(frame, name)).get(column) for name in names}
    name = "flops_per_token" if units["flops_per_token"] is not None else "flops"
    unit = units["budget"] or units["flops"] or _scaled_name(fold(column))[1]
    _take(frame, name, [(column, 1.0 if name == "flops_per_token" else unit)], out)
    if units["budget"] is not None:
        out.names["budget"], out.frame["budget"] = column, out.frame["flops"]


def costs_unread(frame: pd.DataFrame, columns: Columns) -> list[str]:
    """Columns of ``frame`` that seem to hold a cost and are not among the recognised ``columns``."""
    parts = {c: set(fold(c).split("_")) for c in frame.columns if c not in columns.names.values()}
    return [
        c for c, p in parts.items() if p & COST_WORDS and not p & SPEEDS and _has_numbers(frame[c])
    ]


def _there_too(others: list[str], how: str = "") -> str:
    if not others:
        return ""
    named = ", ".join(map(legible, others[:MOST_NAMED]))
    more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    return f"; there {'are' if len(others) > 1 else 'is'} also {named}{more}{how}"


# The loss


def losses_in(frame: pd.DataFrame) -> list[str]:
    """The columns of ``frame`` that may be the loss, the best first."""
    ranked = [(_loss_rank(fold(c)), i, c) for i, c in enumerate(frame.columns)]
    return [c for rank, _, c in sorted(r for r in ranked if r[0] is not None)]


def _loss_rank(folded: str) -> int | None:
    """Place of a name in `LOSSES`, None where it names no loss."""
    for name in (folded, bare(folded)):
        if name in LOSSES:
            return LOSSES.index(name)
    parts = set(folded.split("_"))
    is_loss = parts & LOSS_WORDS or "cross_entropy" in folded or "bits_per" in folded
    if not is_loss or parts & NO_LOSS:
        return None
    if parts & HELD_OUT or "held_out" in folded:
        return LOSSES.index(HELD_OUT_LOSS)
    return LOSSES.index(TRAINING_LOSS if parts & TRAINING else OTHER_LOSS)


def _take_loss(frame: pd.DataFrame, source: str, asked: str | None, out: Columns) -> None:
    """Put the loss into ``out``: the column asked for, or the best that has numbers."""
    possible = [c for c in losses_in(frame) if fold(c) == "loss" or _has_numbers(frame[c])]
    if asked is not None:
        column = named_column(frame, asked, f"{source}: loss column")
    else:
        candidates = [*possible[:1], *_perplexities(frame)]
        column = candidates[0] if candidates else ""
        if not column:
            raise FlopsFitError(
                f"{source}: no column for the loss; found {_listed(frame)}; allowed: loss, val/loss, "
                "eval/loss, final_loss, train/loss and the like, perplexity, or any column named by "
                f"--loss (fit.loss){_separator_hint(frame)}"
            )
    parts = set(fold(column).split("_"))
    cells, example = spoken_floats(frame[column], decimal_commas=True)
    if example:
        out.notes.append(f"column {legible(column)}: {example}")
    out.decimal_commas = bool(example) and has_decimal_commas(frame[column])
    cells = cells.where(cells.notna(), frame[column]) if example else frame[column]
    out.names["loss"] = column
    if parts & PERPLEXITY:
        values, _ = spoken_floats(cells)
        with np.errstate(divide="ignore", invalid="ignore"):
            out.frame["loss"] = np.log(values)
        per = next((u for u in ("word", "byte", "character", "char") if u in parts), None)
        out.loss_unit = f"nats per {per}" if per else "nats"
        out.notes.append(f"column {legible(column)} read as perplexity; loss = ln(perplexity)")
        return
    out.frame["loss"] = cells
    if "bpb" in parts or "bits_per_byte" in fold(column):
        out.loss_unit = "bits per byte"
    elif parts & {"bits", "bit"}:
        out.loss_unit = "bits"
    others = _there_too([c for c in possible if c != column], "; --loss (fit.loss) chooses")
    if fold(column) != "loss" or others:
        out.notes.append(f"column {legible(column)} read as loss{others}")


def _perplexities(frame: pd.DataFrame) -> Iterator[str]:
    """Columns of perplexities, held-out ones first."""
    named = [c for c in frame.columns if set(fold(c).split("_")) & PERPLEXITY]
    named = [c for c in named if _has_numbers(frame[c])]
    yield from sorted(named, key=lambda c: not set(fold(c).split("_")) & HELD_OUT)


def named_column(frame: pd.DataFrame, asked: str, what: str) -> str:
    """The column of ``frame`` called ``asked``, in the file's or folded spelling.

    Raises `FlopsFitError` where there is none; ``what`` then says where the name is from.
    """
    if asked in frame.columns:
        return asked
    for column in frame.columns:
        if fold(column) == fold(asked):
            return column
    raise FlopsFitError(f"{what} {asked!r} is not there; found {_listed(frame)}")


def _listed(frame: pd.DataFrame) -> str:
    printable = (str(c) if str(c).isprintable() else repr(c) for c in frame.columns)
    return ", ".join(printable) or "no columns"


def legible(name: str) -> str:
    """A column's name in quotes, as notes have it."""
    return repr(str(name))


def _separator_hint(frame: pd.DataFrame) -> str:
    """What to do where the whole header was read as one column."""
    alone = len(frame.columns) == 1 and re.search(r"[|\s]", str(frame.columns[0]))
    return "; columns must be separated by commas, semicolons or tabs" if alone else ""
