"""Tell a library's objects from the user's, and name them."""

import sys
import types
from typing import Any

from flops_fit.plugins.origin import UNVERSIONED, is_library


def library_name(value: Any) -> str | None:
    """Return ``module:name version`` where a library offers ``value`` under that name, else None."""
    name, module = getattr(value, "__qualname__", None), getattr(value, "__module__", None)
    if not isinstance(name, str) or not isinstance(module, str):
        return None
    member: Any = sys.modules.get(module)
    if member is None or not is_library_module(member):
        return None
    for step in name.split("."):
        member = getattr(member, step, None)
    return f"{module}:{name}{version_of(module)}" if member is value else None


def version_of(module: str) -> str:
    """Return the version of the library of ``module``, a name, behind a space; or an empty text."""
    top = module.partition(".")[0]
    version = getattr(sys.modules.get(top), "__version__", "")
    return "" if top in UNVERSIONED else f" {str(version).partition('+')[0]}"


def is_library_module(module: types.ModuleType) -> bool:
    """Whether ``module`` is identified by its name and version, and not by its content."""
    file = getattr(module, "__file__", None)
    if file is not None:
        return is_library(file)
    folders = list(getattr(module, "__path__", ()))
    if folders:  # a namespace package
        return all(is_library(f"{folder}/__init__.py") for folder in folders)
    spec = getattr(module, "__spec__", None)  # None: a notebook, an interpreter
    return spec is not None and spec.origin in ("built-in", "frozen")


def is_users_function(value: Any) -> bool:
    """Whether ``value`` is a function, and not one that a library has defined."""
    function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
    if not isinstance(function, types.FunctionType):
        return False
    module = sys.modules.get(str(function.__module__))
    return module is not None and not is_library_module(module)


def replaced_members(kind: type) -> dict[str, Any]:
    """Return the methods that the user has put into the library's class ``kind`` or its bases."""
    return {
        f"{base.__name__}.{name}": member
        for base in kind.__mro__
        for name, member in vars(base).items()
        if is_users_function(member)
    }
