"""How answers of a kind have held on published sweeps: ``record.json``, as text.

Made by ``python benchmarks/published.py --write``: the largest budgets of each table left out and asked
for, with the error of the form from the other families of sweeps.
"""

from functools import cache
from pathlib import Path

from flops_fit.files import read_json

RECORD = Path(__file__).with_name("record.json")
BANDS = {
    "up to 3x": 3.0,
    "3x to 10x": 10.1,
    "beyond 10x": float("inf"),
}  # largest C over the data's
FEWEST_ANSWERS = 5  # held-out budgets of a kind, below which all of its verdict are counted


@cache
def record() -> dict:
    """The record as the package keeps it."""
    return read_json(RECORD)


def record_words(verdict: str, beyond: float) -> str:
    """How often answers of this ``verdict`` and distance held, in a sentence; empty where not known.

    ``beyond``: C over the largest budget of the data.
    """
    band = next(name for name, most in BANDS.items() if beyond <= most)
    near, entry = f" at budgets {band} the largest", record().get(f"{verdict}, {band}")
    if not entry or entry["rows"] < FEWEST_ANSWERS:
        near, entry = "", record().get(verdict)
    if not entry or entry["rows"] < FEWEST_ANSWERS:
        return ""
    kept = ""
    if entry["kept"] is not None:
        kept = (
            f"; the advised size cost at most 5% more compute than the best in {entry['kept']:.0%}"
        )
    return (
        f"Track record: on {entry['rows']} held-out budgets of {record()['sweeps']} published sweeps, "
        f"answers with the verdict {verdict}{near} had the measured N* inside their interval in "
        f"{entry['params']:.0%} of cases, and the measured loss in {entry['loss']:.0%}{kept}."
    )
