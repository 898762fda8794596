"""What N, D and C of a run determine between them, and which of them is believed where they differ."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from flops_fit.constants import FLOPS_PER_PARAM_TOKEN, flops_6nd
from flops_fit.errors import FlopsFitError
from flops_fit.fit.losses import MOST_NAMED
from flops_fit.fit.names import fold, header_hint, legible, listed, names_in
from flops_fit.fit.rows import Reading
from flops_fit.fit.units import parts

USUAL = {  # names among the many that are known
    "params": ("N", "num_params", "n_params", "parameters", "model_size"),
    "tokens": ("D", "num_tokens", "tokens_seen", "train_tokens", "total_tokens"),
}
INDIRECT = {  # parts of names of columns from which one could compute it
    "params": {"model", "width", "depth", "layers", "size", "arch", "architecture"},
    "tokens": set(listed("step steps iters iterations batch samples sequences epochs d per")),
}
HOW = {
    "params": "params with the number of parameters of each run",
    "tokens": "tokens of the whole training, such as steps x items of a batch x tokens of an item",
}


def completed(
    frame: pd.DataFrame,
    source: str,
    notes: list[str],
    reading: Reading,
    columns: Iterable[object] = (),
) -> pd.DataFrame:
    """``frame`` with what N, D and C determine between them filled in.

    ``frame``: one run per row; ``source`` and ``columns``: its file and that file's columns, for
    messages; ``notes`` gets a sentence on each of the columns that are derived; ``reading``: the
    choices that a table leaves. Raises `FlopsFitError` where N or D can be derived from nothing.
    """
    if "tokens" not in frame and _full(frame, "unique_tokens"):
        passes = frame["epochs"] if _full(frame, "epochs") else 1.0
        frame["tokens"] = frame["unique_tokens"] * passes
        how = "unique_tokens x epochs" if "epochs" in frame else "unique_tokens, each read once"
        notes.append(f"tokens = {how}")
    if "flops" not in frame and "tokens" in frame and _full(frame, "flops_per_token"):
        frame["flops"] = frame["flops_per_token"] * frame["tokens"]
        notes.append("flops = flops_per_token x tokens")
    compute = "flops" if "flops" in frame else "budget" if "budget" in frame else None
    for name, other in (("tokens", "params"), ("params", "tokens")):
        if name in frame:
            continue
        if other not in frame or compute is None:
            raise FlopsFitError(
                f"{source}: no column for {name}, and no other two of params, tokens, flops to "
                f"derive it from; found {names_in(columns)}; allowed names: {name}, "
                f"{', '.join(USUAL[name])} and the like{_instead(name, columns)}"
            )
        frame[name] = frame[compute] / (FLOPS_PER_PARAM_TOKEN * frame[other])
        notes.append(f"{name} = {compute} / (6 {other})")
    if "flops" not in frame:
        six_nd = flops_6nd(frame["params"], frame["tokens"])
        given = reading.cost_column is None and _full(frame, "budget")
        by_budget = given and parts(np.log(frame["budget"] / six_nd))
        frame["flops"] = frame["budget"] if by_budget else six_nd
        notes.append("flops = budget" if by_budget else "flops = 6 params tokens")
    return frame


def _full(frame: pd.DataFrame, name: str) -> bool:
    return name in frame and bool(frame[name].notna().all())


def _instead(name: str, columns: Iterable[object]) -> str:
    """What to do where the file's ``columns`` hold what ``name`` could be computed from."""
    there = [legible(c) for c in columns if set(fold(c).split("_")) & INDIRECT[name]]
    hint = header_hint(columns)
    if hint or not there:
        return hint
    verb = "do" if len(there) > 1 else "does"
    return f"; {', '.join(there[:MOST_NAMED])} alone {verb} not give it: add a column {HOW[name]}"
