"""A user's own code, reached by import path: found, called, and its errors put into one line."""

import difflib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from flops_fit.errors import FlopsFitError
from flops_fit.plugins.origin import INSTALLED, STANDARD_LIBRARY, is_core


def resolve(reference: str) -> Callable:
    """Import ``reference``, ``"package.module:callable"``, and return what it names.

    The name may be dotted. Raises `FlopsFitError`, naming the reference, when it is not of that
    form, when the module does not import (with the user's own exception and its line), when the
    name is missing (with close matches), or when what it names cannot be called.
    """
    module_name, name = split_reference(reference)
    try:
        value = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a module may do anything on import, even exit
        raise FlopsFitError(f"{reference}: {_import_failure(module_name, error)}") from error
    path = module_name
    for attribute in name.split("."):
        try:
            value = getattr(value, attribute)
        except AttributeError:
            raise FlopsFitError(
                f"{reference}: {path} has no '{attribute}'{_close_matches(attribute, dir(value))}"
            ) from None
        path = f"{path}.{attribute}"
    if not callable(value):
        raise FlopsFitError(
            f"{reference}: is a {type(value).__name__}, not something that can be called"
        )
    return value


def add_search_paths(paths: Iterable[str | Path]) -> None:
    """Put folders at the front of ``sys.path``, in their order, each only once."""
    for path in reversed([os.path.abspath(path) for path in paths]):
        if path in sys.path:
            sys.path.remove(path)
        sys.path.insert(0, path)


def check_arguments(
    function: Callable,
    reference: str,
    kwargs: Mapping[str, Any],
    key: str,
    *,
    positional: int = 0,
    supplied: Collection[str] = (),
) -> None:
    """Check that ``function(*positional, **kwargs)`` fits its signature, without calling it.

    ``key`` is the config key that holds ``kwargs``; it opens the error. ``positional`` counts
    leading arguments that we pass by position, ``supplied`` names those that we add by name: they
    are not missing where ``kwargs`` lacks them, and not allowed in it. A callable with
    ``**kwargs`` accepts any name; one without a readable signature (C code) is not checked.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return
    name = reference.partition(":")[2] or reference
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    taken = [p.name for p in parameters if p.kind in by_position][:positional]
    named = [p for p in parameters if p.kind in by_name and p.name not in taken]
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)

    def refuse_unknown(argument: str, allowed: list[str], key: str, remark: str = "") -> None:
        if argument not in allowed and not takes_any:
            raise FlopsFitError(
                f"{key}: {name} has no argument '{argument}'{remark}; "
                f"allowed: {', '.join(allowed) or 'none'}{_close_matches(argument, allowed)}"
            )

    for argument in supplied:
        section = key.partition(".")[0]
        refuse_unknown(argument, [p.name for p in named], section, ", which flops-fit sets")
    for argument in kwargs:
        if argument in supplied or argument in taken:
            raise FlopsFitError(f"{key}: '{argument}' is set by flops-fit, leave it out")
        refuse_unknown(argument, [p.name for p in named if p.name not in supplied], key)
    missing = [
        p.name
        for p in named
        if p.default is inspect.Parameter.empty and p.name not in {*kwargs, *supplied}
    ]
    if missing:
        raise FlopsFitError(f"{key}: {name} needs {', '.join(map(repr, missing))}")


def one_line(error: BaseException) -> str:
    """``Type: first line of the message (file:line)``, the line being the user's own.

    That is the innermost frame outside of installed packages, the standard library and our core;
    where there is none, no place is given.
    """
    message = (str(error).strip().splitlines() or [""])[0]
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((f for f in reversed(frames) if _is_users(f.filename)), None)
    return f"{text} ({frame.filename}:{frame.lineno})" if frame else text


@lru_cache
def _is_users(filename: str) -> bool:
    if filename.startswith("<") or any(part in INSTALLED for part in Path(filename).parts):
        return False
    path = Path(filename)
    return not is_core(path) and not path.is_relative_to(STANDARD_LIBRARY)


def split_reference(reference: str) -> tuple[str, str]:
    module_name, colon, name = reference.partition(":")
    if not (colon and module_name and name) or ":" in name or module_name.startswith("."):
        raise FlopsFitError(f"{reference}: not an import path; write 'package.module:callable'")
    return module_name, name


def _import_failure(module_name: str, error: BaseException) -> str:
    missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    if missing and (module_name == missing or module_name.startswith(missing + ".")):
        return f"no module named '{missing}' in {os.getcwd()} or on the Python path"
    return f"{module_name} does not import: {one_line(error)}"


def _close_matches(name: str, allowed: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, [a for a in allowed if not a.startswith("__")])
    return f"; did you mean {' or '.join(map(repr, matches))}?" if matches else ""
