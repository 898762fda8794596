"""Read which arguments a plug-in takes from its source, without importing it."""

import ast
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flops_fit.errors import FlopsFitError
from flops_fit.plugins.code import Module, absolute_base, find_module, located
from flops_fit.plugins.resolve import one_line, split_reference
from flops_fit.plugins.uses import roots_of

DEEPEST = 20  # names or classes that are followed from one to the next
Definition = ast.FunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Arguments:
    """The names of the arguments that a plug-in needs, ``required``, and of the ``optional`` ones."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


def read_arguments(reference: str, search_paths: Iterable[str]) -> Arguments | None:
    """Return the arguments of ``reference``, looked for below ``search_paths``; nothing is imported.

    A class takes those of its ``__init__``, which may be inherited, and a name that is imported from
    another module is followed there. Returns None where the source does not say. Raises
    `FlopsFitError` where there is no such module, and where it does not parse.
    """
    module_name, name = split_reference(reference)
    paths = tuple(search_paths)
    module, _ = located(module_name, paths, reference=reference)
    return None if "." in name else _arguments_of(name, module, paths, 0)


def only_required(reference: str, given: Mapping[str, object], search_paths: Iterable[str]) -> str:
    """Return the only argument that ``reference`` requires beside the ``given`` ones.

    It is looked for below ``search_paths``. Raises `FlopsFitError` that names the candidates where
    there is not exactly one.
    """
    arguments = read_arguments(reference, search_paths)
    if arguments is None:
        raise FlopsFitError(
            f"model.size_param: missing, and the source of {reference} does not show its arguments; "
            "allowed: the name of the argument that sets the size"
        )
    return choose_size("model.size_param", reference, arguments, given)


def live_arguments(function: Callable[..., Any]) -> Arguments:
    """Return the arguments of ``function``, a function or class that is imported already.

    There are none where its signature cannot be read, as that of C code.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return Arguments(())
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = [parameter for parameter in parameters if parameter.kind in by_name]
    required = [p.name for p in named if p.default is p.empty]
    return Arguments(tuple(required), tuple(p.name for p in named if p.name not in required))


def choose_size(key: str, name: str, arguments: Arguments, given: Mapping[str, object]) -> str:
    """Return the only one of the required ``arguments`` of ``name`` that is not ``given``.

    ``key`` is the setting that would name it. Raises `FlopsFitError` that names the candidates where
    there is not exactly one.
    """
    required = [argument for argument in arguments.required if argument not in given]
    if len(required) == 1:
        return required[0]
    candidates = required or [name for name in arguments.optional if name not in given]
    count = f"{len(required)} arguments" if required else "no argument"
    raise FlopsFitError(
        f"{key}: missing, and {name} requires {count}, so none stands out as the size; "
        f"allowed: one of its arguments, {', '.join(candidates) or 'of which it has none'}"
    )


def _arguments_of(name: str, module: Module, paths: Sequence[str], depth: int) -> Arguments | None:
    """The arguments of ``name`` in ``module``; None where its source does not say."""
    definition = None if depth > DEEPEST else _definition(name, module, paths, depth)
    if definition is None:
        return None
    node, module = definition
    if isinstance(node, ast.FunctionDef):
        return _of_function(node, 0)
    makers = [f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]
    if makers:
        return _of_function(makers[-1], 1)
    if node.decorator_list or not node.bases or not isinstance(node.bases[0], ast.Name):
        return None  # such as a dataclass, whose __init__ is made when it is imported
    return _arguments_of(node.bases[0].id, module, paths, depth + 1)


def _definition(
    name: str, module: Module, paths: Sequence[str], depth: int
) -> tuple[Definition, Module] | None:
    """The last top-level definition of ``name`` in ``module``, or where it is imported from."""
    if module.file is None or depth > DEEPEST:
        return None
    try:
        body = ast.parse(module.file.read_bytes(), filename=str(module.file)).body
    except (SyntaxError, ValueError) as error:
        raise FlopsFitError(f"{module.file}: does not parse: {one_line(error)}") from None
    for node in reversed(body):
        if isinstance(node, Definition) and node.name == name:
            return node, module
        if isinstance(node, ast.ImportFrom):
            original = next((a.name for a in node.names if (a.asname or a.name) == name), None)
            base = absolute_base(module, node.level, node.module)
            if original is not None and base:
                other = find_module(base, roots_of(paths))
                return None if other is None else _definition(original, other, paths, depth + 1)
        if isinstance(node, ast.Assign | ast.AnnAssign) and _assigns(node, name):
            return None
    return None


def _assigns(node: ast.Assign | ast.AnnAssign, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _of_function(node: ast.FunctionDef, bound: int) -> Arguments:
    """The arguments of a function that have a name, without the first ``bound`` ones."""
    by_position = [*node.args.posonlyargs, *node.args.args]
    plain = len(by_position) - len(node.args.defaults)
    required = [a.arg for a in by_position[bound:plain] if a not in node.args.posonlyargs]
    optional = [a.arg for a in by_position[max(plain, bound) :] if a not in node.args.posonlyargs]
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        (required if default is None else optional).append(argument.arg)
    return Arguments(tuple(required), tuple(optional))
