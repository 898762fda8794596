"""What a function does, read from its bytecode and without the lines that it was written on.

Bytecode and not source: it is what runs (a file may have been saved after it was imported), and a
class typed into a notebook has no source file. Comments, docstrings, line numbers and formatting
leave no trace in what is read here; another minor version of Python compiles to other bytecode.
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
KINDS = (
    inspect.CO_VARARGS
    | inspect.CO_VARKEYWORDS
    | inspect.CO_GENERATOR
    | inspect.CO_COROUTINE
    | inspect.CO_ITERABLE_COROUTINE
    | inspect.CO_ASYNC_GENERATOR
)


@dataclass(frozen=True)
class Code:
    """One code object.

    ``text``: its instructions. ``constants``: the values that they use, in that order; a nested
    function is a code object. ``names``: the globals that it or a nested function reads, each
    followed by the attributes read from it. ``imports``: (level, module, names) of the imports.
    """

    text: str
    constants: tuple[Any, ...]
    names: frozenset[tuple[str, ...]]
    imports: frozenset[tuple[int, str, tuple[str, ...]]]


def read_code(code: CodeType) -> Code:
    """Read a code object with all that is nested in it."""
    instructions = _without_notes(
        [i for i in dis.get_instructions(code) if i.opname not in WITHOUT_EFFECT]
    )
    offsets = [i.offset for i in instructions]
    spelled: list[str] = []
    constants: list[Any] = []
    names: set[tuple[str, ...]] = set()
    imports: set[tuple[int, str, tuple[str, ...]]] = set()
    for at, instruction in enumerate(instructions):
        value = instruction.argval
        if instruction.opcode in dis.hasconst:
            constants.append(value)
            spelled.append(instruction.opname)
        elif instruction.opcode in JUMPS:
            spelled.append(f"{instruction.opname} {bisect_left(offsets, value)}")
        else:
            spelled.append(f"{instruction.opname} {value!r}")
        if instruction.opname in GLOBAL_READS:
            names.add((value, *_attributes(instructions, at + 1)))
        elif instruction.opname == "IMPORT_NAME":
            level, wanted = (before.argval for before in instructions[at - 2 : at])
            imports.add((level, value, tuple(wanted or ())))
    for constant in constants:
        if isinstance(constant, CodeType):
            nested = read_code(constant)
            names |= nested.names
            imports |= nested.imports
    handlers = [
        [
            *(bisect_left(offsets, place) for place in (entry.start, entry.end, entry.target)),
            entry.depth,
            entry.lasti,
        ]
        for entry in vars(dis.Bytecode(code))["exception_entries"]
    ]
    text = "\n".join([_signature(code), *spelled, repr(handlers)])
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
            code.co_flags & KINDS,
        )
    )


def _without_notes(instructions: list[dis.Instruction]) -> list[dis.Instruction]:
    """Without what Python notes in the body of a nested class, such as its docstring."""
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
