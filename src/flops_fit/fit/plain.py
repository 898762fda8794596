"""Frozen dataclasses as plain data and back: what FIT.json and ``predict --json`` hold.

A field may carry metadata: ``key``, its name in the data, where that differs; ``before``, a name that
it had in older files; ``omit``, where None is left out; ``read`` and ``write``, functions to and from
plain data in place of those here.
"""

from collections.abc import Callable, Hashable
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import TypeVar, Union, get_args, get_origin, get_type_hints

OMITTED = {"omit": True}
NUMBERS = (int, float)
NAMES = {float: "a number", int: "an integer", str: "a text", bool: "true or false"}
T = TypeVar("T")


class Unreadable(ValueError):
    """Plain data that are not what a type needs; the message names the key."""


def to_plain(value: object) -> object:
    """``value`` as dicts, lists, numbers and texts, as `json.dump` takes them.

    A dataclass becomes a dict in the order of its fields, unless it has a ``to_dict`` method.
    """
    if isinstance(value, (str, *NUMBERS, NoneType)):
        return value
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value.to_dict() if hasattr(value, "to_dict") else fields_of(value)


def fields_of(value: object) -> dict:
    """The fields of a dataclass instance ``value`` as plain data."""
    assert is_dataclass(value)
    plain = {}
    for field in fields(value):
        item, key = getattr(value, field.name), field.metadata.get("key", field.name)
        if item is not None:
            plain[key] = field.metadata.get("write", to_plain)(item)
        elif not field.metadata.get("omit"):
            plain[key] = None
    return plain


def from_plain(kind: type, value: object, where: str = "") -> object:
    """``value``, plain data, as an instance of ``kind``: the inverse of `to_plain`.

    ``kind``: a dataclass, a type with a ``from_dict`` method, a list, tuple, dict or union of such,
    a number or a text. ``where`` is the place of the value, as messages name it. A field may be
    absent where it has a default. Raises `Unreadable` for a value of another type.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _one_of(inner, value, where)
    if origin in (list, tuple):
        if not isinstance(value, list):
            raise _unexpected("a list", value, where)
        items = [from_plain(inner[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
        return items if origin is list else tuple(items)
    is_object = origin is dict or is_dataclass(kind) or hasattr(kind, "from_dict")
    if is_object and not isinstance(value, dict):
        raise _unexpected("an object", value, where)
    if origin is dict and isinstance(value, dict):
        return {key: from_plain(inner[1], v, f"{where}.{key}") for key, v in value.items()}
    if isinstance(value, dict) and is_object:
        return _instance(kind, value, where)
    allowed = NUMBERS if kind is float else kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise _unexpected(NAMES.get(kind, str(kind)), value, where)
    return value


def _one_of(kinds: tuple, value: object, where: str) -> object:
    """``value`` as the first of ``kinds`` that it fits."""
    if value is None and NoneType in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not NoneType)
    for kind in kinds[:-1]:
        try:
            return from_plain(kind, value, where)
        except Unreadable:
            continue
    return from_plain(kinds[-1], value, where)


def _instance(kind: type, value: dict, where: str) -> object:
    """``value`` as ``kind``, by its own reader if it has one."""
    if hasattr(kind, "from_dict"):
        return _read(kind.from_dict, value, where)
    return with_fields(kind, value, where)


def with_fields(kind: type[T], value: dict, where: str = "") -> T:
    """A dataclass of ``kind`` from the dict ``value``: the inverse of `fields_of`.

    Keys that it does not know are passed over; ``where`` is its place, for messages. Raises
    `Unreadable` for a missing key and for a value of another type.
    """
    known = {}
    for field, hint in _hints(kind):  # type: ignore[arg-type]
        key = field.metadata.get("key", field.name)
        key = key if key in value else field.metadata.get("before", key)
        place = f"{where}.{key}".removeprefix(".")
        if key in value and "read" in field.metadata:
            known[field.name] = _read(field.metadata["read"], value[key], place)
        elif key in value:
            known[field.name] = from_plain(hint, value[key], place)
        elif field.metadata.get("omit"):
            known[field.name] = None
        elif field.default is MISSING and field.default_factory is MISSING:
            raise Unreadable(f"no {key!r} in {where or 'it'}")
    return kind(**known)


def _read(read: Callable, value: object, where: str) -> object:
    """``value`` by a reader that does not check it; None stays None."""
    try:
        return None if value is None else read(value)
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise Unreadable(f"{where}: not as it was written ({error!r})") from None


@cache
def _hints(kind: Hashable) -> list[tuple[Field, type]]:
    """(field, its type) of a dataclass, types resolved."""
    hints = get_type_hints(kind)
    return [(field, hints[field.name]) for field in fields(kind)]  # type: ignore[arg-type]


def _unexpected(expected: str, value: object, where: str) -> Unreadable:
    text = repr(value)
    shown = text if len(text) <= 40 else f"{text[:37]}..."
    return Unreadable(f"{where or 'the file'}: {shown}; expected {expected}")
