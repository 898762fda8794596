"""Read what a function does from its bytecode, ignoring where in a file it was written.

Bytecode is used instead of source because it is what runs (a file may have been saved again after
it was imported) and because a class typed into a notebook has no source file. Comments,
docstrings, line numbers and formatting do not affect the result. Each minor version of Python
compiles to different bytecode.
"""

import dis
import inspect
from bisect import bisect_left
from dataclasses import dataclass
from types import CodeType
from typing import Any

WITHOUT_EFFECT = {"NOP", "CACHE", "EXTENDED_ARG", "RESUME"}
GLOBAL_READS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
ATTRIBUTE_READS = {"LOAD_ATTR", "LOAD_METHOD"}
WRITTEN_BY_PYTHON = {"__doc__", "__firstlineno__", "__static_attributes__"}  # in a class body
JUMPS = frozenset([*dis.hasjrel, *dis.hasjabs])
DECISIVE_FLAGS = (
    inspect.CO_VARARGS
    | inspect.CO_VARKEYWORDS
    | inspect.CO_GENERATOR
    | inspect.CO_COROUTINE
    | inspect.CO_ITERABLE_COROUTINE
    | inspect.CO_ASYNC_GENERATOR
)


@dataclass(frozen=True)
class Code:
    """The content of one code object.

    ``text`` holds the instructions and ``constants`` the values that they use, in the same order
    (a nested function is a code object). ``names`` holds the globals that the code or a function
    nested in it reads, each followed by the attributes read from it. ``imports`` holds one
    ``(level, module, names)`` for each import statement.
    """

    text: str
    constants: tuple[Any, ...]
    names: frozenset[tuple[str, ...]]
    imports: frozenset[tuple[int, str, tuple[str, ...]]]


def read_code(code: CodeType) -> Code:
    """Read the code object ``code``, including the functions nested in it."""
    instructions = _without_notes(
        [i for i in dis.get_instructions(code) if i.opname not in WITHOUT_EFFECT]
    )
    offsets = [i.offset for i in instructions]
    lines: list[str] = []
    constants: list[Any] = []
    names: set[tuple[str, ...]] = set()
    imports: set[tuple[int, str, tuple[str, ...]]] = set()
    for at, instruction in enumerate(instructions):
        value = instruction.argval
        if instruction.opcode in dis.hasconst:
            constants.append(value)
            lines.append(instruction.opname)
        elif instruction.opcode in JUMPS:
            lines.append(f"{instruction.opname} {bisect_left(offsets, value)}")
        else:
            lines.append(f"{instruction.opname} {value!r}")
        if instruction.opname in GLOBAL_READS:
            names.add((value, *_attributes(instructions, at + 1)))
        elif instruction.opname == "IMPORT_NAME":
            level, members = (before.argval for before in instructions[at - 2 : at])
            imports.add((level, value, tuple(members or ())))
    for constant in constants:
        if isinstance(constant, CodeType):
            nested = read_code(constant)
            names |= nested.names
            imports |= nested.imports
    handlers = [
        [
            *(bisect_left(offsets, offset) for offset in (entry.start, entry.end, entry.target)),
            entry.depth,
            entry.lasti,
        ]
        for entry in vars(dis.Bytecode(code))["exception_entries"]
    ]
    text = "\n".join([_signature(code), *lines, repr(handlers)])
    return Code(text, tuple(constants), frozenset(names), frozenset(imports))


def _signature(code: CodeType) -> str:
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    return repr(
        (
            code.co_argcount,
            code.co_posonlyargcount,
            code.co_kwonlyargcount,
            code.co_varnames[:count],
            code.co_flags & DECISIVE_FLAGS,
        )
    )


def _without_notes(instructions: list[dis.Instruction]) -> list[dis.Instruction]:
    """Drop what Python itself stores in the body of a nested class, such as its docstring."""
    kept: list[dis.Instruction] = []
    for instruction in instructions:
        if instruction.opname == "STORE_NAME" and instruction.argval in WRITTEN_BY_PYTHON:
            if kept[-1].opname.startswith(("LOAD_CONST", "LOAD_SMALL_INT")):
                kept.pop()
            continue
        kept.append(instruction)
    return kept


def _attributes(instructions: list[dis.Instruction], start: int) -> list[str]:
    chain = []
    for instruction in instructions[start:]:
        if instruction.opname not in ATTRIBUTE_READS:
            break
        chain.append(instruction.argval)
    return chain
