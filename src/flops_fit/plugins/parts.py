"""A node of the graph that an object's content is, see `flops_fit.plugins.content`."""

import marshal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

ATOMS = {str, int, float, bool, bytes, complex, type(None), type(...)}


@dataclass(eq=False, slots=True)
class Part:
    """Something by its own ``label`` and (how it is reached, what) it consists of.

    ``unordered``: whether the order of ``parts`` does not count. ``size``, ``chunks``: bytes that
    belong to the label, and a function that gives them; they are read once all sizes are known.
    """

    label: str | bytes
    parts: Iterable[tuple[str, Any]] = ()
    unordered: bool = False
    size: int = 0
    chunks: Callable[[], Iterable[Any]] | None = None


def atom(value: Any) -> Any:
    """``value`` as it is spelled, where it is an atom; else itself."""
    if type(value) not in ATOMS:
        return value
    return Part(b"atom " + marshal.dumps(value, 2))  # version 2 does not tell what is shared


def mapping_part(pairs: Iterable[tuple[Any, Any]], way: Callable[[Any], str]) -> Part:
    """Keys and values in any order; ``way`` spells how a key leads to its value."""
    return Part("mapping", [(way(key), _item(key, value)) for key, value in pairs], unordered=True)


def _item(key: Any, value: Any) -> Part:
    if type(key) in ATOMS:
        return Part(b"item " + marshal.dumps(key, 2), [("", value)])
    return Part("item", [("", key), ("", value)])
