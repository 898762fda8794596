"""Check the rules of a config (batch, learning rate, weight decay): what excludes what in them."""

from flops_fit.config.budgets import show
from flops_fit.errors import FlopsFitError

RULES = ("batch", "learning_rate", "weight_decay")
SOURCES = ("value", "function", "file")


def check_rules(config: dict) -> None:
    """Refuse a rule that has no source or several, and tokens seen where they decide nothing.

    Raises `FlopsFitError` that names the key of ``config``.
    """
    for key in RULES:
        if key == "weight_decay" and config.get(key) is None:  # the optimiser decides it
            continue
        rule = config.get(key, {"value": 1})
        _check_source(key, rule)
        if key != "batch" and "seen" in rule:
            raise FlopsFitError(f"{key}.seen: only a batch can grow with the tokens seen")
    if "seen" in config.get("batch", {}) and len(config.get("batch_factors", [1])) > 1:
        raise FlopsFitError(
            "batch.seen: cannot be combined with batch_factors, which multiply one batch of a run"
        )


def _check_source(key: str, rule: dict | None) -> None:
    if rule is None:
        raise FlopsFitError(f"{key}: None is not allowed; allowed: a number, or a mapping of keys")
    if len([name for name in SOURCES if name in rule]) != 1:
        raise FlopsFitError(
            f"{key}: {show(sorted(rule))} given; allowed: exactly one of {', '.join(SOURCES)}"
        )
