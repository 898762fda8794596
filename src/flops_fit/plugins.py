"""A user's own code, reached by import path: found, checked, and fingerprinted unimported."""

import ast
import contextlib
import difflib
import hashlib
import importlib
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

from flops_fit.errors import FlopsFitError
from flops_fit.files import write_json

OWN_FOLDER = Path(__file__).parent
STANDARD_LIBRARY = Path(os.__file__).parent
INSTALLED = ("site-packages", "dist-packages")


def resolve(reference: str) -> Callable:
    """Import ``reference``, ``"package.module:callable"``, and return what it names.

    The name may be dotted. Raises `FlopsFitError`, naming the reference, when it is not of that
    form, when the module does not import (with the user's own exception and its line), when the
    name is missing (with close matches), or when what it names cannot be called.
    """
    module_name, name = _split(reference)
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
    path = Path(filename)
    if filename.startswith("<") or any(part in INSTALLED for part in path.parts):
        return False
    core = path.is_relative_to(OWN_FOLDER) and not path.is_relative_to(OWN_FOLDER / "examples")
    return not core and not path.is_relative_to(STANDARD_LIBRARY)


def _split(reference: str) -> tuple[str, str]:
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


# ---------------------------------------------------------------------------- fingerprints


@dataclass(frozen=True)
class _Module:
    """Where a module's source lies; a package's ``file`` is its ``__init__.py`` (or None)."""

    name: str
    file: Path | None
    folders: tuple[Path, ...] = ()  # of a package: where its submodules lie


def source_fingerprint(reference: str, search_paths: Iterable[str | Path] | None = None) -> str:
    """SHA-256 of the code that a reference stands for, read without importing anything.

    Hashed is the syntax tree, without comments and docstrings, of the reference's module and,
    recursively, of the modules that it imports by name (anywhere in the file) from its own
    top-level package; for a module outside any package, from its own folder. A package's
    ``__init__.py`` counts when something is imported from it, not for being passed through.
    Code installed by others (``site-packages``) or without Python source is known by its
    reference alone: its version is recorded with each run, never hashed.

    ``search_paths`` are looked through before ``sys.path``. The value does not depend on where
    files lie, nor on the version of Python (3.11 or newer). Raises `FlopsFitError` where the
    module is missing or does not parse.
    """
    module_name, _ = _split(reference)
    roots = [Path(path).absolute() for path in [*(search_paths or ()), *sys.path]]
    top_name = module_name.partition(".")[0]
    top = _find_top(top_name, roots)
    module = _find(module_name, top)
    if module is None:
        raise FlopsFitError(
            f"{reference}: no module named '{module_name}' in "
            f"{', '.join(map(str, search_paths or ())) or os.getcwd()} or on the Python path"
        )
    digest = hashlib.sha256()
    if module.file is None or _is_installed(module.file):
        digest.update(f"installed {reference}".encode())
        return digest.hexdigest()
    sources: dict[str, str] = {}
    pending = [module]
    while pending:
        module = pending.pop()
        if module.file is None or module.name in sources:
            continue
        status = module.file.stat()
        tree_digest, imports = _known_source(module.file, status.st_mtime_ns, status.st_size)
        sources[module.name] = tree_digest
        for level, base, names in imports:
            pending.extend(_imported(module, top, level, base, names))
    for name in sorted(sources):
        digest.update(f"{name} {sources[name]}\n".encode())
    return digest.hexdigest()


def _is_installed(file: Path) -> bool:
    """By another distribution, that is: our own examples stay known by their source."""
    if file.is_relative_to(OWN_FOLDER):
        return False
    return file.is_relative_to(STANDARD_LIBRARY) or any(part in INSTALLED for part in file.parts)


def _imported(
    module: _Module, top: _Module, level: int, base: str | None, names: tuple[str, ...]
) -> Iterator[_Module]:
    """The modules that one import statement names, of those whose source is the user's."""
    if level:
        package = module.name.split(".") if module.folders else module.name.split(".")[:-1]
        package = package[: len(package) - (level - 1)]
        base = ".".join([*package, base] if base else package)
    if not base:
        return
    if base.partition(".")[0] != top.name.partition(".")[0]:
        if top.folders or top.file is None:  # a package ends at its own name
            return
        top = _find_top(base.partition(".")[0], [top.file.parent], hooks=False)
    submodules = [found for name in names if (found := _find(f"{base}.{name}", top))]
    yield from submodules
    if len(submodules) < len(names) or not names:
        found = _find(base, top)
        if found:
            yield found


def _find_top(name: str, roots: list[Path], hooks: bool = True) -> _Module | None:
    found = _find_in(name, name, roots)
    if found or not hooks:
        return found
    for finder in sys.meta_path:  # editable installs bring a finder of their own
        spec = finder.find_spec(name, None) if hasattr(finder, "find_spec") else None
        if spec:
            file = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
            folders = tuple(Path(folder) for folder in spec.submodule_search_locations or ())
            return _Module(name, file, folders)
    return None


def _find(name: str, top: _Module | None) -> _Module | None:
    """The module of this full name, walking down from its top-level package."""
    parts = name.split(".")
    module = top
    for depth in range(2, len(parts) + 1):
        if module is None:
            return None
        module = _find_in(parts[depth - 1], ".".join(parts[:depth]), module.folders)
    return module


def _find_in(tail: str, name: str, folders: Iterable[Path]) -> _Module | None:
    """As Python's own path finder does, which cannot enter a package without importing it.

    ``os.path`` says no where ``Path.is_file`` raises: at a name that is too long.
    """
    portions = []
    for folder in folders:
        package = folder / tail
        if os.path.isfile(package / "__init__.py"):
            return _Module(name, package / "__init__.py", (package,))
        if any(os.path.isfile(folder / f"{tail}{suffix}") for suffix in EXTENSION_SUFFIXES):
            return _Module(name, None)
        if os.path.isfile(folder / f"{tail}.py"):
            return _Module(name, folder / f"{tail}.py")
        if os.path.isdir(package):
            portions.append(package)
    return _Module(name, None, tuple(portions)) if portions else None


def syntax_tree_hash(file: Path) -> str:
    """The digest of one file's syntax tree, as `source_fingerprint` knows it."""
    status = file.stat()
    return _read_source(file, status.st_mtime_ns, status.st_size)[0]


_remembered: dict[str, list] = {}  # by path: time, size, digest and imports of a source


@contextlib.contextmanager
def remembered_sources(cache: Path) -> Iterator[None]:
    """Within, sources are parsed only where they differ, by time and size, from those in ``cache``.

    Parsing is most of what a start of the workflow takes. What another version of this module has
    written is not used.
    """
    reader = Path(__file__).stat()
    own = [reader.st_mtime_ns, reader.st_size]
    with contextlib.suppress(OSError, ValueError, KeyError):
        content = json.loads(cache.read_text())
        if content["reader"] == own:
            _remembered.update(content["sources"])
    before = dict(_remembered)
    yield
    if _remembered != before:
        write_json(cache, {"reader": own, "sources": _remembered})


def _known_source(file: Path, mtime_ns: int, size: int) -> tuple[str, Iterable]:
    known = _remembered.get(str(file))
    if known is None or known[:2] != [mtime_ns, size]:
        digest, imports = _read_source(file, mtime_ns, size)
        known = [mtime_ns, size, digest, [[level, base, list(n)] for level, base, n in imports]]
        _remembered[str(file)] = known
    return known[2], known[3]


@lru_cache(maxsize=4096)
def _read_source(file: Path, mtime_ns: int, size: int) -> tuple[str, tuple[tuple, ...]]:
    """The digest of a file's syntax tree, and its imports as (level, module, names)."""
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError) as error:
        raise FlopsFitError(f"{file}: does not parse: {one_line(error)}") from None
    parts: list[str] = []
    imports: list[tuple[int, str | None, tuple[str, ...]]] = []
    _write_tree(tree, parts, imports)
    text = "".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest(), tuple(imports)


WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _is_text(statements: list[ast.stmt]) -> bool:
    """Whether a body's first statement is a docstring."""
    return any(
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
        for statement in statements
    )


def _write_tree(node: ast.AST, parts: list[str], imports: list[tuple]) -> None:
    """Append a spelling of the tree that Python versions share, and what it imports.

    What is empty is left out: new versions add fields (3.12 gave functions ``type_params``) that
    are empty in older code. One pass for both, since every start of the workflow reads the sources.
    """
    parts.append(f"({type(node).__name__}")
    if isinstance(node, ast.Constant):  # its None is a value; `kind` is the u of u"text"
        parts.append(f" {type(node.value).__name__} {node.value!r})")
        return
    if isinstance(node, ast.Import):
        imports.extend((0, alias.name, ()) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        imports.append((node.level, node.module, tuple(alias.name for alias in node.names)))
    for field, value in ast.iter_fields(node):
        if field == "body" and isinstance(node, WITH_DOCSTRING) and _is_text(value[:1]):
            value = value[1:]
        if isinstance(node, ast.JoinedStr):  # 3.12 ends a format such as {x:{width}} with ""
            value = [part for part in value if getattr(part, "value", None) != ""]
        if value is None or value == []:
            continue
        parts.append(f" {field}=")
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST):
                _write_tree(item, parts, imports)
            else:
                parts.append(f"{item!r},")
    parts.append(")")
