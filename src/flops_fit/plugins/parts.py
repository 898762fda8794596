"""The nodes of the graph of an object's content, see `flops_fit.plugins.content`."""

import marshal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

ATOMS = {str, int, float, bool, bytes, complex, type(None), type(...)}


@dataclass(eq=False, slots=True)
class Part:
    """A node: its ``label``, and its ``parts`` as pairs of the step to a part and the part.

    ``unordered`` is true where the order of the parts does not count. ``chunks()`` yields ``size``
    bytes that belong to the label; they are read once all sizes are known.
    """

    label: str | bytes
    parts: Iterable[tuple[str, Any]] = ()
    unordered: bool = False
    size: int = 0
    chunks: Callable[[], Iterable[Any]] | None = None


def atom(value: Any) -> Any:
    """Return ``value`` as a `Part` where it is an atom, and unchanged where it is not."""
    if type(value) not in ATOMS:
        return value
    return Part(b"atom " + marshal.dumps(value, 2))  # version 2 does not mark shared objects


def mapping_part(pairs: Iterable[tuple[Any, Any]], step: Callable[[Any], str]) -> Part:
    """Describe ``pairs`` of keys and values, in any order.

    ``step(key)`` writes the step from a mapping to the value of a key, such as ``.key``.
    """
    return Part("mapping", [(step(key), _item(key, value)) for key, value in pairs], unordered=True)


def _item(key: Any, value: Any) -> Part:
    if type(key) in ATOMS:
        return Part(b"item " + marshal.dumps(key, 2), [("", value)])
    return Part("item", [("", key), ("", value)])
