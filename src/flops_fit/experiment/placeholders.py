"""Placeholders such as ``{size}`` in the arguments of a user's script."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from flops_fit.errors import FlopsFitError

NAMES = (
    "size",
    "tokens",
    "steps",
    "batch_items",
    "learning_rate",
    "seed",
    "folder",
    "processes",
    "threads",
    "gpus",
)
PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


def filled(word: str, values: Mapping[str, Any]) -> str:
    """The argument ``word`` with its placeholders replaced by ``values``; ``{{`` gives a brace."""
    return PLACEHOLDER.sub(
        lambda match: match[0][0] if match[1] is None else str(values[match[1]]), word
    )


def has_placeholder(word: str) -> bool:
    """Whether anything is to be filled in ``word``."""
    return any(match[1] is not None for match in PLACEHOLDER.finditer(word))


def check_placeholders(key: str, line: Iterable[str], more: Iterable[str] = ()) -> None:
    """Refuse a placeholder in ``line``, given under the config's ``key``, that nothing fills.

    ``more`` are the names of `NAMES` and beyond. Raises `FlopsFitError` that names it.
    """
    allowed = [*NAMES, *more]
    for word in line:
        for match in PLACEHOLDER.finditer(word):
            if match[1] is not None and match[1] not in allowed:
                raise FlopsFitError(
                    f"{key}: {match[0]} in {word!r} is no placeholder; allowed: "
                    f"{', '.join(allowed)}, and {{{{ for a brace"
                )
