"""Take Python objects apart, one step deep: code, classes, instances, collections."""

import copyreg
import enum
import functools
import importlib
import importlib.util
import marshal
import os
import sys
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

from flops_fit.errors import FlopsFitError
from flops_fit.plugins.arrays import array_part
from flops_fit.plugins.bytecode import read_code
from flops_fit.plugins.code import tree_digest
from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.libraries import (
    is_library_module,
    is_users_function,
    library_name,
    replaced_members,
    version_of,
)
from flops_fit.plugins.origin import is_library
from flops_fit.plugins.parts import ATOMS, Part, atom, mapping_part
from flops_fit.plugins.randomness import generator_part

IGNORED_MEMBERS = {
    "__doc__",
    "__module__",
    "__qualname__",
    "__dict__",
    "__weakref__",
    "_abc_impl",
    "_autograd_function_id",
    "_backward_cls",
}
DECISIVE_MEMBERS = {"__slots__", "__dataclass_fields__"}  # special members that are no functions
FUNCTIONS = (types.FunctionType, classmethod, staticmethod, property)
C_MEMBERS = (
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
WEAK_COLLECTIONS = (weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet)
HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE, which classes built into a C library lack
TYPE_NAMES = {
    "lock": "a lock",
    "RLock": "a lock",
    "generator": "a generator",
    "socket": "a socket",
    "TextIOWrapper": "an open file",
    "BufferedReader": "an open file",
    "BufferedWriter": "an open file",
    "BufferedRandom": "an open file",
    "FileIO": "an open file",
}
NEW_OBJECT = object().__reduce_ex__(4)[0]  # how pickle creates an object without arguments
MOST_NAMES = 10_000  # a longer collection is not searched for names of files
LONGEST_NAME = 1024  # characters


def part_of(value: Any, hashes: FileHashes) -> Part | None:
    """Describe what ``value`` consists of; None where it cannot be taken apart, such as a lock.

    ``hashes`` caches the hashes of files.
    """
    if type(value) in ATOMS:
        return _file_part(value, hashes) or atom(value)
    if type(value) in (list, tuple):
        return _sequence(value)
    for kinds, describe in DESCRIPTIONS:
        if isinstance(value, kinds):
            return describe(value)
    name = library_name(value)
    if name is not None:
        return Part(f"library {name}")
    if isinstance(value, PurePath):
        return _file_part(str(value), hashes) or Part(f"path {value.as_posix()}")
    return generator_part(value) or array_part(value, hashes) or _instance(value)


def describe_type(value: Any) -> str:
    """Return the type of ``value`` as a noun with its article, such as "a lock"."""
    kind = type(value)
    return TYPE_NAMES.get(kind.__name__) or f"a {kind.__module__}.{kind.__qualname__}"


def _file_part(value: Any, hashes: FileHashes) -> Part | None:
    """Describe a text that names a file by the file's content, whatever its folder."""
    if type(value) is not str or not 0 < len(value) <= LONGEST_NAME or not os.path.isfile(value):
        return None
    path = Path(value)
    try:
        content = tree_digest(path) if path.suffix == ".py" else hashes.of(path)
    except FlopsFitError:
        return None
    return Part(f"file {path.name} {content}")


def _sequence(value: list | tuple) -> Part:
    kind = type(value).__name__
    if _is_flat(value) and not _may_name_files(value):
        return Part(kind.encode() + b" " + marshal.dumps(value, 2))
    return Part(kind, [(f"[{i}]", item) for i, item in enumerate(value)])


def _is_flat(value: list | tuple) -> bool:
    """Whether ``value`` holds only atoms, or rows of atoms; it is then hashed in one step."""
    kinds = set(map(type, value))
    if kinds <= {list, tuple}:
        kinds = set(map(type, chain.from_iterable(value)))
    return kinds <= ATOMS


def _may_name_files(value: list | tuple) -> bool:
    if len(value) > MOST_NAMES:
        return False
    rows = chain.from_iterable(row if type(row) in (list, tuple) else (row,) for row in value)
    return any(
        type(text) is str and len(text) <= LONGEST_NAME and os.path.isfile(text) for text in rows
    )


def _set(value: set | frozenset) -> Part | None:
    if type(value) not in (set, frozenset):
        return _instance(value)
    return Part(type(value).__name__, [("", item) for item in value], unordered=True)


def _mapping(value: Any) -> Part | None:
    if type(value) not in (dict, types.MappingProxyType):
        return _instance(value)
    return mapping_part(value.items(), "[{!r}]".format)


# Code


def _module(value: types.ModuleType) -> Part:
    if is_library_module(value):
        return Part(f"library {value.__name__}{version_of(value.__name__)}")
    members = {name: member for name, member in vars(value).items() if not name.startswith("__")}
    return mapping_part(members.items(), ".{}".format)


def _function(value: types.FunctionType) -> Part:
    name = library_name(value)
    if name is not None:
        return Part(f"library {name}")
    compiled = vars(value).get("_torchdynamo_orig_callable")
    if compiled is not None:
        return Part("compiled", [("", compiled)])
    code = value.__code__
    cells = zip(code.co_freevars, value.__closure__ or (), strict=True)
    parts = [
        (" (a default)", value.__defaults__),
        (" (a default)", value.__kwdefaults__),
        ("", mapping_part(vars(value).items(), ".{}".format)),
        ("", Part("cells", [(f" -> {name}", _content_of(cell)) for name, cell in cells])),
    ]
    if is_library(code.co_filename):  # a library's wrapper, perhaps around the user's code
        return Part(f"library {value.__globals__.get('__name__')}:{code.co_qualname}", parts)
    return Part("function", [*parts, ("", code), ("", _globals(value))])


def _content_of(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return Part("an empty cell")


def _globals(function: types.FunctionType) -> Part:
    """The globals that a function names, and the attributes of the user's modules that it reads."""
    code, namespace = read_code(function.__code__), function.__globals__
    values: dict[str, Any] = {}
    for name, *attributes in code.names:
        if name not in namespace or (name.startswith("__") and name.endswith("__")):
            continue
        name, value = _reached(name, namespace[name], attributes)
        values[name] = value
    for level, name, members in code.imports:
        values |= _imported(namespace.get("__package__") or "", level, name, members)
    return mapping_part(values.items(), " -> {}".format)


def _reached(name: str, value: Any, attributes: list[str]) -> tuple[str, Any]:
    """The attribute that code reads, as far as the user's modules lead to it.

    Of a library's module a function counts that the user has put there, and a class with such methods.
    """
    kept = name, value
    for attribute in attributes:
        if not isinstance(value, types.ModuleType):
            break
        name = f"{name}.{attribute}"
        if is_library_module(value):
            value = vars(value).get(attribute)
        else:
            value = getattr(value, attribute, None)
            kept = name, value
    replaced = isinstance(value, type) and library_name(value) and replaced_members(value)
    return (name, value) if replaced or is_users_function(value) else kept


def _imported(package: str, level: int, name: str, members: tuple[str, ...]) -> dict[str, Any]:
    """Import now what a function will import from the user's modules when it is called."""
    try:
        name = importlib.util.resolve_name("." * level + name, package) if level else name
        top = name.partition(".")[0]
        spec = None if top in sys.modules else importlib.util.find_spec(top)
        if spec is not None and (not spec.has_location or is_library(spec.origin or "")):
            return {}
        if top in sys.modules and is_library_module(sys.modules[top]):
            return {}
        module = importlib.import_module(name)
    except Exception:  # the user's module may raise anything, and will again when it is called
        return {}
    if not members:
        return {name: module}
    return {f"{name}.{member}": getattr(module, member, None) for member in members}


def _code(value: types.CodeType) -> Part:
    code = read_code(value)
    return Part(code.text, [("", atom(constant)) for constant in code.constants])


def _class(value: type) -> Part:
    name = library_name(value)
    if name is None and not value.__flags__ & HEAP_TYPE:
        name = f"{value.__module__}:{value.__qualname__}"
    if name is not None:
        replaced = replaced_members(value)
        parts = [("", mapping_part(replaced.items(), ".{}".format))] if replaced else []
        return Part(f"library {name}", parts)
    members = {
        name: member
        for name, member in vars(value).items()
        if name not in IGNORED_MEMBERS
        and (not name.startswith("__") or name in DECISIVE_MEMBERS or isinstance(member, FUNCTIONS))
        and not isinstance(member, C_MEMBERS)
    }
    if isinstance(value, enum.EnumMeta):
        members = {
            name: member for name, member in members.items() if isinstance(member, FUNCTIONS)
        }
        members |= {name: getattr(value, name).value for name in value.__members__}
    return Part(
        f"class {value.__name__}",
        [
            ("", type(value)),
            ("", Part("bases", [("", base) for base in value.__bases__])),
            ("", mapping_part(members.items(), ".{}".format)),
        ],
    )


def _builtin(value: types.BuiltinFunctionType) -> Part:
    bound, module = value.__self__, sys.modules.get(value.__module__ or "")
    if bound is not None and not isinstance(bound, types.ModuleType):
        return Part(f"method {value.__name__}", [("", bound)])
    file = getattr(module, "__file__", None)
    parts = [] if file is None or is_library(file) else [("", Path(file))]
    return Part(f"library {value.__module__}:{value.__qualname__}", parts)


# Instances


def _instance(value: Any) -> Part | None:
    """Describe an object by its class and by what pickle would keep of it."""
    if any(value is stream for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)):
        return Part("a standard stream")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reduce = copyreg.dispatch_table.get(type(value))
            reduced = reduce(value) if reduce else value.__reduce_ex__(4)
    except Exception:  # objects refuse to be pickled with exceptions of any class
        if not _is_torch_module(value):  # a module refuses if parametrizations made its class
            return None
        reduced = (NEW_OBJECT, (type(value),), vars(value))
    if isinstance(reduced, str):
        return Part(f"name {type(value).__module__}:{reduced}")
    made_by, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    parts = [("", type(value)), ("", _state(value, state))]
    if made_by is not NEW_OBJECT or arguments != (type(value),):
        parts += [("", made_by), ("", Part("arguments", [("", a) for a in arguments]))]
    if items is not None:
        parts.append(("", Part("items", [(f"[{i}]", item) for i, item in enumerate(items)])))
    if pairs is not None:
        parts.append(("", mapping_part(pairs, "[{!r}]".format)))
    return Part("object", parts)


def _is_torch_module(value: Any) -> bool:
    nn = sys.modules.get("torch.nn")
    return nn is not None and isinstance(value, nn.Module)


def _state(value: Any, state: Any) -> Any:
    if type(value).__reduce__ is object.__reduce__ and isinstance(state, tuple) and len(state) == 2:
        attributes, slots = state  # the form that Python uses for a class with slots
        if isinstance(slots, dict):
            state = (attributes or {}) | slots
    if state is None:  # no attribute is set
        state = {}
    if not isinstance(state, dict):
        return state
    return mapping_part(_kept(value, state), ".{}".format)


def _kept(value: Any, state: dict) -> Iterator[tuple[Any, Any]]:
    """Yield the state without cached values and without running numbers."""
    for name, member in state.items():
        if isinstance(getattr(type(value), str(name), None), functools.cached_property):
            continue
        if str(name).endswith("_hooks") and isinstance(member, dict):  # the keys are a counter
            member = list(member.values())
        yield name, member


def _wrapped(*names: str) -> Callable[[Any], Part]:
    """Return a function that describes an object which only wraps its attributes ``names``."""

    def describe(value: Any) -> Part:
        return Part(type(value).__name__, [("", getattr(value, name)) for name in names])

    return describe


def _enum_member(value: enum.Enum) -> Part:
    return Part(f"member {value.name}", [("", type(value))])


def _c_member(value: Any) -> Part:
    owner = getattr(value, "__objclass__", type(value))
    return Part(f"member {owner.__module__}:{owner.__qualname__}.{value.__name__}")


DESCRIPTIONS: list[tuple[Any, Callable[[Any], Part | None]]] = [
    (type, _class),
    (types.FunctionType, _function),
    (types.CodeType, _code),
    (types.ModuleType, _module),
    (enum.Enum, _enum_member),
    ((set, frozenset), _set),
    ((dict, types.MappingProxyType), _mapping),
    (types.MethodType, _wrapped("__func__", "__self__")),
    ((classmethod, staticmethod), _wrapped("__func__")),
    (type(functools.lru_cache(len)), _wrapped("__wrapped__")),
    (functools.cached_property, _wrapped("func")),
    (property, _wrapped("fget", "fset", "fdel")),
    (weakref.ref, lambda value: Part("reference", [("", value())])),
    (WEAK_COLLECTIONS, lambda value: Part("cache")),
    (types.BuiltinFunctionType, _builtin),
    (C_MEMBERS, _c_member),
]
