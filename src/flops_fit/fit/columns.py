"""Which column of a table is what: the names that other projects and trackers use.

Names are compared in lower case with every separator as "_", first whole, then without the
prefixes of trackers ("summary.eval/loss", "config.n_params"). Held-out losses come before training
losses. Every choice among several columns is said in a note.
"""

from dataclasses import dataclass, field

import pandas as pd

from flops_fit.fit.losses import find_loss, has_numbers, there_too
from flops_fit.fit.names import PF_DAYS, bare, fold, legible, listed, named_column, scaled_name
from flops_fit.fit.tables import digits, scaled, spoken_floats

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
NUMBERS = ("params", "tokens", "flops", "budget", "flops_per_token", "unique_tokens")
WITH_UNITS = ("params", "tokens", "flops", "budget")  # whose header may name a unit: params_M
EXACT = ("status", "outlier", "size", "unique_tokens")  # model_state and data_size are neither
SIX_ND = "6nd"  # asks for C = 6 N D, whatever columns there are
COST_WORDS = {"flop", "flops", "flos", "compute", "macs", "tflops", "gflops", "pflops", "eflops"}
SPEEDS = set(
    listed("s sec second seconds per mfu utilization utilisation speed rate throughput peak")
)
AS_PLANNED = tuple(listed("config hparams hyperparameters hyperparams params parameters args"))


@dataclass
class Columns:
    """Columns under our names. ``names``: ours -> the file's; ``loss_unit`` as `RunTable` has it.

    ``others``: for our names, the (column, unit) of the file that could be it too.
    """

    frame: pd.DataFrame  # under our names
    names: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what was recognised
    loss_unit: str = "nats"
    decimal_commas: bool = False  # of the losses, and then of the whole file
    others: dict[str, list[tuple[str, float]]] = field(default_factory=dict)


def columns_for(frame: pd.DataFrame, name: str) -> list[tuple[str, float]]:
    """(column, its unit) of every column of ``frame`` that may be ``name``, the best first.

    Among equals those of a tracker's config come last: they hold what was planned.
    """
    units: dict[str, float] = {}
    names = {column: fold(column) for column in frame.columns}
    folded = dict(sorted(names.items(), key=lambda pair: pair[1].startswith(AS_PLANNED)))
    ways = (
        {c: (f, 1.0) for c, f in folded.items() if not PF_DAYS.fullmatch(f)},
        {c: (bare(f), 1.0) for c, f in folded.items() if not PF_DAYS.fullmatch(f)},
        {c: scaled_name(f) for c, f in folded.items()},
        {c: scaled_name(bare(f)) for c, f in folded.items()},
    )
    used = 1 if name in EXACT else 4 if name in WITH_UNITS else 2
    for way in ways[:used]:
        for alias in (name, *ALIASES[name]):
            for column, (candidate, unit) in way.items():
                if candidate == alias and column not in units:
                    units[column] = unit
    return list(units.items())


def recognise(
    frame: pd.DataFrame, source: str, loss_column: str | None = None, cost_column: str | None = None
) -> Columns:
    """``frame`` with our names for its columns, numbers read as people write them.

    ``loss_column`` names the file's column of the loss, which is else chosen by `LOSSES`, and
    ``cost_column`` that of C, or is "6nd" for none; ``source`` names the file in messages.
    """
    loss = find_loss(frame, source, loss_column)
    out = Columns(pd.DataFrame({"loss": loss.cells}), {"loss": loss.column}, loss.notes, loss.unit)
    out.decimal_commas = loss.decimal_commas
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
                if fold(column) == name or has_numbers(frame[column])
            ]
        if possible:
            _take(frame, name, possible, out)
    return out


def counts_in(
    cells: pd.Series, unit: float, decimal_commas: bool = False
) -> tuple[pd.Series, float, str]:
    """The ``cells`` of a column (n,) times the ``unit`` of its header, where they are numbers.

    A unit in a cell, as in 70M, takes the place of the header's. ``decimal_commas`` as `spoken_floats`
    has it. Returns the cells, the unit that was used, and an example of a cell that was read so.
    """
    values, example = spoken_floats(cells, decimal_commas, decimal_commas)
    in_cells = scaled(cells) if example else pd.Series(False, cells.index)
    if in_cells.all():
        unit = 1.0
    values = values.where(in_cells, values * unit)
    return (values.where(values.notna(), cells) if example or unit != 1.0 else cells), unit, example


def _take(frame: pd.DataFrame, name: str, possible: list[tuple[str, float]], out: Columns) -> None:
    """Put the first of the ``possible`` columns into ``out`` as ``name``, and say which it was."""
    (column, unit), *others = possible
    cells = frame[column]
    if name in NUMBERS:
        cells, unit, example = counts_in(cells, unit, out.decimal_commas)
        if example:
            out.notes.append(f"column {legible(column)}: {example}")
    out.names[name], out.others[name] = column, others
    out.frame[name] = cells
    if fold(column) in (name, "run_id") or name in ("epochs", "unique_tokens"):
        return
    times = f", times {digits(unit)}" if unit != 1.0 else ""
    there = "" if name == "experiment_id" else there_too([c for c, _ in others])
    out.notes.append(f"column {legible(column)} read as {name}{times}{there}")


def _take_cost(frame: pd.DataFrame, source: str, asked: str, out: Columns) -> None:
    """Put the column that is asked for as the cost into ``out``; a budget still groups the runs."""
    column = named_column(frame, asked, f"{source}: cost column")
    names = ("flops_per_token", "budget", "flops")
    units = {name: dict(columns_for(frame, name)).get(column) for name in names}
    name = "flops_per_token" if units["flops_per_token"] is not None else "flops"
    unit = units["budget"] or units["flops"] or scaled_name(fold(column))[1]
    _take(frame, name, [(column, 1.0 if name == "flops_per_token" else unit)], out)
    if units["budget"] is not None:
        out.names["budget"], out.frame["budget"] = column, out.frame["flops"]


def costs_unread(frame: pd.DataFrame, columns: Columns) -> list[str]:
    """Columns of ``frame`` that seem to hold a cost and are not among the recognised ``columns``."""
    parts = {c: set(fold(c).split("_")) for c in frame.columns if c not in columns.names.values()}
    return [
        c for c, p in parts.items() if p & COST_WORDS and not p & SPEEDS and has_numbers(frame[c])
    ]
