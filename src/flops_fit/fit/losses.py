"""Which column of a table is the loss: a held-out one before others, those before training losses."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.fit.names import bare, fold, header_hint, legible, listed, named_column, names_in
from flops_fit.fit.tables import has_decimal_commas, spoken_floats

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
HELD_OUT = set(listed("val valid validation eval evaluation test heldout held holdout dev"))
TRAINING = {"train", "training"}
LOSS_WORDS = set(listed("loss nll xent bpb bpc bpw ce"))
LOSS_PHRASES = ("cross_entropy", "bits_per", "negative_log_likelihood", "neg_log_likelihood")
NO_LOSS = set(
    listed("""se std sd sem stderr err var variance scale unit curve aux z zloss lb balance balancing
    router type function fn column delta diff rank min max weight count step log10 log2 ln relative
    excess improvement gap minus ratio gain reduction normalized normalised predicted pred prediction
    expected fitted target baseline reference reducible irreducible""")
)
PERPLEXITY = {"ppl", "perplexity", "perplexities"}
HIGHEST_NATS = 13.0  # per token: more than guessing costs among 400,000 of them
MOST_NAMED = 5  # columns of a list in a note


@dataclass
class Loss:
    """The column of the loss: its name in the file, and its ``cells`` (n,) as they are to be read.

    ``unit`` as `RunTable` has it; ``decimal_commas``: of the losses, and then of the whole file;
    ``notes`` say how the column was chosen and read.
    """

    column: str
    cells: pd.Series
    unit: str = "nats"
    decimal_commas: bool = False
    notes: list[str] = field(default_factory=list)


def losses_in(frame: pd.DataFrame) -> list[str]:
    """The columns of ``frame`` that may be the loss, the best first.

    Among equals a total comes last, since it holds more than the loss of the task.
    """
    ranked = []
    for place, column in enumerate(frame.columns):
        rank, total = _rank(fold(column)), "total" in fold(column).split("_")
        ranked += [] if rank is None else [(rank, total, place, column)]
    return [column for *_, column in sorted(ranked)]


def _rank(folded: str) -> int | None:
    """Place of a name in `LOSSES`, None where it names no loss."""
    for name in (folded, bare(folded)):
        if name in LOSSES:
            return LOSSES.index(name)
    parts = set(folded.split("_"))
    is_loss = parts & LOSS_WORDS or any(phrase in folded for phrase in LOSS_PHRASES)
    if not is_loss or parts & NO_LOSS:
        return None
    if parts & HELD_OUT or "held_out" in folded:
        return LOSSES.index(HELD_OUT_LOSS)
    return LOSSES.index(TRAINING_LOSS if parts & TRAINING else OTHER_LOSS)


def has_numbers(column: pd.Series) -> bool:
    """Whether any cell of ``column`` can be read as a number."""
    return bool(spoken_floats(column)[0].notna().any())


def find_loss(frame: pd.DataFrame, source: str, asked: str | None) -> Loss:
    """The loss of ``frame``: the column ``asked`` for, or the best that has numbers.

    A held-out perplexity comes before a training loss. Raises `FlopsFitError`, naming the file
    ``source``, where there is no such column.
    """
    losses = [c for c in losses_in(frame) if fold(c) == "loss" or has_numbers(frame[c])]
    perplexities = _perplexities(frame)
    trained = bool(losses) and _is_training(losses[0])
    heldout = bool(perplexities) and _is_held_out(perplexities[0])
    possible = [*perplexities, *losses] if trained and heldout else [*losses, *perplexities]
    if asked is None and not possible:
        raise FlopsFitError(
            f"{source}: no column for the loss; found {names_in(frame.columns)}; allowed: loss, "
            "val/loss, eval/loss, final_loss, train/loss and the like, perplexity, or a column named by "
            f"--loss (fit.loss){header_hint(frame.columns)}"
        )
    column = possible[0] if asked is None else named_column(frame, asked, f"{source}: loss column")
    return _read(frame, column, [c for c in possible if c != column])


def _is_training(name: str) -> bool:
    rank = _rank(fold(name))
    return rank is not None and rank >= LOSSES.index("final_train_loss")


def _is_held_out(name: str) -> bool:
    return bool(set(fold(name).split("_")) & HELD_OUT)


def _perplexities(frame: pd.DataFrame) -> list[str]:
    """Columns of perplexities, held-out ones first."""
    named = [c for c in frame.columns if set(fold(c).split("_")) & PERPLEXITY]
    named = [c for c in named if has_numbers(frame[c])]
    return sorted(named, key=lambda c: not _is_held_out(c))


def _read(frame: pd.DataFrame, column: str, others: list[str]) -> Loss:
    """The loss in ``column``, with notes on it and on the ``others`` that there are."""
    parts = set(fold(column).split("_"))
    cells, example = spoken_floats(frame[column], decimal_commas=True)
    loss = Loss(column, cells.where(cells.notna(), frame[column]) if example else frame[column])
    if example:
        loss.notes.append(f"column {legible(column)}: {example}")
        loss.decimal_commas = has_decimal_commas(frame[column])
    there = there_too(others, "; --loss (fit.loss) chooses")
    if parts & PERPLEXITY:
        values, _ = spoken_floats(loss.cells)
        with np.errstate(divide="ignore", invalid="ignore"):
            loss.cells = np.log(values)
        per = next((u for u in ("word", "byte", "character", "char") if u in parts), None)
        loss.unit = f"nats per {per}" if per else "nats"
        loss.notes.append(
            f"column {legible(column)} read as perplexity; loss = ln(perplexity){there}"
        )
        return loss
    if "bpb" in parts or "bits_per_byte" in fold(column):
        loss.unit = "bits per byte"
    elif "bpc" in parts or "bits_per_char" in fold(column):
        loss.unit = "bits per character"
    elif parts & {"bits", "bit"}:
        loss.unit = "bits"
    if fold(column) != "loss" or there:
        loss.notes.append(f"column {legible(column)} read as loss{there}")
    if loss.unit == "nats" and cells.min() > 1 and cells.median() > HIGHEST_NATS:
        loss.notes.append(
            f"losses of {cells.min():.4g} to {cells.max():.4g} are more than guessing a token costs in "
            "nats: if they are perplexities, name the column perplexity (loss = ln(perplexity)); else "
            "name their unit (--loss-unit)"
        )
    return loss


def there_too(others: list[str], how: str = "") -> str:
    """The end of a note that names the ``others`` that a column was chosen from, and ``how``."""
    if not others:
        return ""
    named = ", ".join(map(legible, others[:MOST_NAMED]))
    more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    return f"; there {'are' if len(others) > 1 else 'is'} also {named}{more}{how}"
