"""Reach the user's code by its import path, check its arguments, and shorten its errors."""

import contextlib
import difflib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flops_fit.errors import FlopsFitError
from flops_fit.plugins.origin import is_user_code

draw_at_import: set[str] = set()  # modules whose import sets seeds or draws random numbers


def resolve(reference: str) -> Callable:
    """Import ``reference``, ``"package.module:callable"``, and return the callable.

    The name behind the colon may contain dots. Raises `FlopsFitError` that names the reference
    where it does not have this form, where the module cannot be imported (with the user's
    exception and its line), where the module lacks the name (with close matches), and where the
    name is not callable.
    """
    from flops_fit.plugins.randomness import states_of_all  # imports NumPy, which is slow

    module_name, name = split_reference(reference)
    folder, before = os.getcwd(), None if module_name in sys.modules else states_of_all()
    try:
        value = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a module may do anything on import, even exit
        raise FlopsFitError(f"{reference}: {_import_failure(module_name, error)}") from error
    if before is not None and states_of_all() != before:
        draw_at_import.add(module_name)
    if os.getcwd() != folder:
        moved = os.getcwd()
        os.chdir(folder)
        raise FlopsFitError(
            f"{reference}: {module_name} changes the working directory to {moved} when it is imported; "
            "allowed: a module that does not, and paths that do not depend on it"
        )
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
        raise FlopsFitError(f"{reference}: cannot be called, its type is {type(value).__name__}")
    return value


def add_search_paths(paths: Iterable[str | Path]) -> None:
    """Put the folders ``paths`` at the front of ``sys.path``, in this order, each only once."""
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
    """Check that the signature of ``function`` accepts ``kwargs``, without calling it.

    ``reference`` names the function in an error, and ``key`` is the config key that holds
    ``kwargs``. flops-fit itself passes the first ``positional`` arguments by position and those in
    ``supplied`` by name; ``kwargs`` must not repeat them. A callable with ``**kwargs`` accepts any
    name; one without a readable signature (C code) is not checked. Raises `FlopsFitError` for an
    argument that is unknown, missing, or set by flops-fit.
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
            raise FlopsFitError(f"{key}: '{argument}' is set by flops-fit; leave it out")
        refuse_unknown(argument, [p.name for p in named if p.name not in supplied], key)
    missing = [
        p.name
        for p in named
        if p.default is inspect.Parameter.empty and p.name not in {*kwargs, *supplied}
    ]
    if missing:
        raise FlopsFitError(f"{key}: {name} needs {', '.join(map(repr, missing))}")


def one_line(error: BaseException) -> str:
    """Return ``error`` as ``Type: first line of the message (file:line)``.

    The line is the innermost one in the user's code, that is, outside of installed packages, the
    standard library and flops-fit; it is left out where there is none.
    """
    message = (str(error).strip().splitlines() or [""])[0]
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((f for f in reversed(frames) if is_user_code(f.filename)), None)
    return f"{text} ({frame.filename}:{frame.lineno})" if frame else text


@contextlib.contextmanager
def one_line_errors(what: str) -> Iterator[None]:
    """Turn an exception of the user's code within the block into one line that begins with ``what``.

    Raises `FlopsFitError`.
    """
    try:
        yield
    except FlopsFitError:
        raise
    except Exception as error:
        raise FlopsFitError(f"{what}: {one_line(error)}") from error


def split_reference(reference: str) -> tuple[str, str]:
    """Split ``reference``, ``"package.module:callable"``, into the module and the callable's name.

    Raises `FlopsFitError` where it does not have this form.
    """
    module_name, colon, name = reference.partition(":")
    if not (colon and module_name and name) or ":" in name or module_name.startswith("."):
        raise FlopsFitError(f"{reference}: not an import path; allowed: 'package.module:callable'")
    return module_name, name


def _import_failure(module_name: str, error: BaseException) -> str:
    missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    if missing and (module_name == missing or module_name.startswith(missing + ".")):
        return f"no module named '{missing}' in {os.getcwd()} or on the Python path"
    hint = ""
    if isinstance(error, SystemExit):
        hint = '; keep what reads arguments or trains under `if __name__ == "__main__":`'
    return f"{module_name} cannot be imported: {one_line(error)}{hint}"


def _close_matches(name: str, allowed: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, [a for a in allowed if not a.startswith("__")])
    return f"; did you mean {' or '.join(map(repr, matches))}?" if matches else ""
