"""Names of columns as other projects and trackers write them: how they are folded, and their units."""

import re

import pandas as pd

from flops_fit.errors import FlopsFitError


def listed(text: str) -> list[str]:
    """The words of a text, so that long lists of names stay readable."""
    return text.split()


TRACKERS = set(
    listed("""summary config metrics results result hparams hyperparameters args final last history model
    run throughput training trainer data params parameters hyperparams general""")
)
ENDINGS = {"value", "last", "none"}  # config.n_params.value; eval/loss (last); perplexity,none
UNITS = {
    **dict.fromkeys(listed("k thousand thousands"), 1e3),
    **dict.fromkeys(listed("m mm mn mio million millions millionen"), 1e6),
    **dict.fromkeys(listed("b bn bil mrd billion billions milliarden"), 1e9),
    **dict.fromkeys(listed("t tn trillion trillions"), 1e12),
}
PREFIXES = {
    **{"": 1.0, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21},
    **{"giga": 1e9, "tera": 1e12, "peta": 1e15, "exa": 1e18, "zetta": 1e21},
}
PREFIXED = re.compile(rf"(?:(.*)_)?({'|'.join(PREFIXES)})(flops?|flos)(_.*)?")  # total_gflops
POWER = re.compile(r"(.+?)_x?(?:1e|10_)(\d+)(?:_flops?)?")  # tokens (1e9), tokens (x10^9)
PF_DAYS = re.compile(r"(.*_)?(pf|pflops?|petaflops?)(_s)?_?days?")  # petaflop_s_days, c_pf_days
PF_DAY = 8.64e19  # FLOPs
COMPUTE = set(  # names behind which FLOPs are a unit: C (EFLOPs)
    listed("c compute total_compute train_compute training_compute budget compute_budget")
)
RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
LOGARITHMS = {"log", "log2", "log10", "ln"}


def fold(name: object) -> str:
    """The column's ``name`` in lower case with every separator as one underscore."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", str(name).strip())  # numParams
    text = re.sub(r"10([⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda m: f"10^{m[1].translate(RAISED)}", text)
    return re.sub(r"[\W_]+", "_", text.lower()).strip("_")


def bare(folded: str) -> str:
    """A ``folded`` name without what trackers write before and behind it."""
    parts = folded.split("_")
    while len(parts) > 1 and parts[0] in TRACKERS:
        parts = parts[1:]
    while len(parts) > 1 and parts[-1] in ENDINGS:
        parts = parts[:-1]
    return "_".join(parts)


def scaled_name(folded: str) -> tuple[str, float]:
    """A ``folded`` name without its unit, and the unit.

    ``params_m`` is params, 1e6; ``total_gflops`` is total_flops, 1e9.
    """
    if PF_DAYS.fullmatch(folded):
        return "pf_days", PF_DAY
    match = PREFIXED.fullmatch(folded)
    if match and match[1] in COMPUTE and not match[4]:
        return match[1], PREFIXES[match[2]]
    if match and match[2]:
        return f"{match[1] + '_' if match[1] else ''}{match[3]}{match[4] or ''}", PREFIXES[match[2]]
    power = POWER.fullmatch(folded)
    if power and int(power[2]) % 3 == 0 and int(power[2]) <= 24:
        return power[1], float(f"1e{power[2]}")
    head, _, unit = folded.rpartition("_")
    head = head.removesuffix("_in")
    return (head, UNITS[unit]) if head and unit in UNITS else (folded, 1.0)


def named_column(frame: pd.DataFrame, asked: str, what: str) -> str:
    """The column of ``frame`` called ``asked``, in the file's or folded spelling.

    Raises `FlopsFitError` where there is none; ``what`` then says where the name is from.
    """
    if asked in frame.columns:
        return asked
    for column in frame.columns:
        if fold(column) == fold(asked):
            return column
    raise FlopsFitError(f"{what} {asked!r} is not there; found {names_in(frame.columns)}")


def names_in(columns: object) -> str:
    """The names of the ``columns`` of a file, as messages list them."""
    names = [str(c) for c in pd.Index(columns)]
    return ", ".join(c if c.isprintable() else repr(c) for c in names) or "no columns"


def legible(name: object) -> str:
    """A column's ``name`` in quotes, as notes have it."""
    return repr(str(name))


def header_hint(columns: object) -> str:
    """What to do where the first line of a file with these ``columns`` is no header; else empty."""
    names = [str(c) for c in pd.Index(columns)]
    if len(names) == 1 and re.search(r"[|\s]", names[0]):
        return "; columns must be separated by commas, semicolons or tabs"
    if {"Wall time", "Step", "Value"} <= set(names):
        return (
            "; a curve of TensorBoard has neither N nor D: make a table with one row per run, of its "
            "params, tokens and last loss"
        )
    if sum(name.startswith("Unnamed:") for name in names) > len(names) / 2:
        return "; is the header further down? Delete the lines above it"
    if sum(re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", name) is not None for name in names) > 1:
        return "; the first line must name the columns: params,tokens,loss"
    parts = {name: set(fold(name).split("_")) for name in names}
    logs = [legible(n) for n in names if parts[n] & LOGARITHMS and "likelihood" not in parts[n]]
    if logs:
        return (
            f"; logarithms are not read ({', '.join(logs)}): add columns of the numbers themselves"
        )
    return ""
