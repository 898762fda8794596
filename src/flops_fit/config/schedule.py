"""Check the section schedule of a config: which keys its kind has, and what a trunk excludes."""

from flops_fit.constants import TRUNK
from flops_fit.errors import FlopsFitError

# The keys of schedule that only a trunk has, and those that only the other kinds have.
OF_TRUNKS, OF_OTHERS = ("warmup_tokens", "cooldown", "shape"), ("warmup", "decay")


def keys_of_other_schedules(kind: str | None) -> tuple[str, ...]:
    """The keys that a schedule of this ``kind`` does not have; None is the default kind."""
    return OF_OTHERS if kind == TRUNK else OF_TRUNKS


def check_schedule(config: dict) -> None:
    """Refuse keys of another kind of schedule, and what would keep runs from sharing a trunk.

    Raises `FlopsFitError` that names the key of ``config``.
    """
    schedule = config.get("schedule", {})
    kind = schedule.get("kind")
    for key in keys_of_other_schedules(kind):
        if key not in schedule:
            continue
        if kind == TRUNK:
            raise FlopsFitError(
                f"schedule.{key}: a fraction of D, so runs of different D would share no step; "
                f"allowed with kind: trunk: {', '.join(OF_TRUNKS)}, final"
            )
        raise FlopsFitError(f"schedule.{key}: {schedule[key]!r}; allowed only with kind: trunk")
    if kind != TRUNK:
        return
    if "warmup_tokens" not in schedule:
        raise FlopsFitError(
            "schedule.warmup_tokens: missing, and it has no default; allowed: the tokens of the "
            "warm-up, fewer than the shortest run takes before its cooldown"
        )
    for key in ("batch", "learning_rate"):
        if "tokens" in config.get(key, {}):
            of_seen = " and seen, a power of the tokens seen so far" if key == "batch" else ""
            raise FlopsFitError(
                f"{key}.tokens: a power of D cannot be combined with schedule.kind: trunk, because "
                f"runs of different D share their first steps; allowed: value, params, size{of_seen}"
            )
