"""Check the rules of a config, of the batch and of the learning rate: what excludes what in them."""

from flops_fit.errors import FlopsFitError

RULES = ("batch", "learning_rate")


def check_rules(config: dict) -> None:
    """Refuse a rule that has no source or several, and a growing batch where nothing can grow.

    Raises `FlopsFitError` that names the key of ``config``.
    """
    for key in RULES:
        rule = config.get(key, {"value": 1})
        if len([name for name in ("value", "function", "file") if name in rule]) != 1:
            raise FlopsFitError(
                f"{key}: {sorted(rule)} given; allowed: exactly one of value, function, file"
            )
    if "seen" in config.get("learning_rate", {}):
        raise FlopsFitError("learning_rate.seen: only a batch can grow with the tokens seen")
    if "seen" in config.get("batch", {}) and config.get("trainer") is not None:
        raise FlopsFitError(
            "batch.seen: cannot be combined with trainer, because a script is given one batch"
        )
