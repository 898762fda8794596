"""What the sources say about themselves: docstrings that name everything, in plain English."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = SOURCE / "flops_fit"
EXAMPLES = "examples"  # written as a user would write them

ARRAYS = re.compile(r"ndarray|DataFrame|Series|Tensor")
SHAPE = re.compile(
    r"shape|column|row|one (\w+ )?(per|for each)|length|scalar|matri|vector|grid|element|item|image"
    r"|table|same size|each|\(n\b|\[n\b",
    re.I,
)
REFUSAL = re.compile(r"[Rr]aises|[Rr]efuse[sd]?\b")
# Two per verb of the command line: argparse describes their one parameter.
VERB_FUNCTION = re.compile(r"run|run_\w+|add_(\w+_)?arguments")
JSON_OBJECT = re.compile(r"(dict|Mapping)\[str, Any\]")  # as JSON has it: checked where it is read
# Public signatures may hold `Any` beyond that only here, with the reason.
ANY_ALLOWED = {
    **dict.fromkeys(
        [
            "plugins",
            "data",
            "loss",
            "model_factory",
            "optimizer",
            "experiment/build",
            "experiment/exact",
            "plan",
            "training",
            "trainer",
            "api",
        ],
        "models, sizes, data, batches and losses are the user's, of any type",
    ),
    "sweep": "sizes are the user's: numbers or texts",
    "run": "a script's values and tensors, without importing what they are of",
    "files/read_json": "what a JSON file holds",
}

# Phrases that stood in earlier texts; each has a plain form (in brackets).
COMPRESSED = {
    r"what is (wanted|told|meant|owed)\b": "name the thing",
    r"\bthe (wanted|told|said|own)\b": "a noun is missing",
    r"\bin words\b": "as text, or as a one-line error",
    r"\bwhence\b": "where it comes from",
    r"\bthereof\b|\bwhereof\b": "of it",
    r"\ba (line|mark|row|dot|point|column|file|word) an? (?!time\b|second\b|minute\b)[a-z]+": "one row per budget",
    r"\btell(s)? the law\b": "determine the law",
    r"\bMisleading (if|in|as|to|where|when)\b": "Caution: ...",
    r"\bdear(er|est)?\b": "expensive",
    r"\bat its word\b": "believed",
    r"\bbadly told\b|\btold badly\b": "poorly determined",
    r"\bof the said\b": "of this",
    r"\blet go of\b": "discard",
    r"\bdeserves a word\b": "is mentioned",
    r"\bplay(s|ed)? (it )?on a\b": "simulate",
    r"\bas its? (own )?words say\b": "as it says",
    r"\bunknowns\b": "parameters",
}
FSTRING_TEXT = getattr(tokenize, "FSTRING_MIDDLE", -1)  # a kind of token from Python 3.12
# Names of variables and parameters that are participles where a noun belongs.
PARTICIPLES = {"told", "wanted", "said", "own", "words", "found"}


@dataclass(frozen=True)
class Public:
    """A public function, method or class with the file it stands in."""

    name: str
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    lines: list[str]
    of_class: str = ""  # the docstring of the class around a method


def modules() -> Iterator[Path]:
    """The files under these rules: no examples, no room that is not yet done."""
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).parts
        room = parts[1] if parts[0] == "flops_fit" else parts[0]
        if room != EXAMPLES:
            yield path


def publics(path: Path) -> Iterator[Public]:
    """Every public function, class and method of a file."""
    text = path.read_text()
    where = ".".join(path.relative_to(SOURCE).with_suffix("").parts)

    def inside(node: ast.Module | ast.ClassDef, prefix: str, of_class: str) -> Iterator[Public]:
        for child in node.body:
            if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if child.name.startswith("_"):
                continue
            yield Public(f"{prefix}.{child.name}", child, text.splitlines(), of_class)
            if isinstance(child, ast.ClassDef):
                yield from inside(child, f"{prefix}.{child.name}", ast.get_docstring(child) or " ")

    yield from inside(ast.parse(text), where, "")


def functions() -> Iterator[Public]:
    """Every public function and method."""
    for path in modules():
        yield from (p for p in publics(path) if not isinstance(p.node, ast.ClassDef))


def classes() -> Iterator[Public]:
    """Every public class."""
    for path in modules():
        yield from (p for p in publics(path) if isinstance(p.node, ast.ClassDef))


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    """The parameters of a function without ``self``, ``cls`` and those named with an underscore."""
    args = node.args
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs]
    every += [extra for extra in (args.vararg, args.kwarg) if extra]
    return [a for a in every if a.arg not in ("self", "cls") and not a.arg.startswith("_")]


def names(text: str, name: str) -> bool:
    """Whether ``name`` stands in ``text`` as a word."""
    return re.search(rf"\b{re.escape(name)}\b", text) is not None


def is_dataclass(node: ast.ClassDef) -> bool:
    """Whether a class is decorated as a dataclass."""
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def fields_without_a_word(public: Public) -> list[str]:
    """Public fields of a dataclass that neither its docstring nor a comment speaks of."""
    node, doc, missing = public.node, ast.get_docstring(public.node) or "", []
    for i, field in enumerate(node.body):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        name = field.target.id
        lines = public.lines[field.lineno - 1 : field.end_lineno]
        above = public.lines[field.lineno - 2].strip()
        after = node.body[i + 1] if i + 1 < len(node.body) else None
        described = (
            names(doc, name)
            or any("#" in line for line in lines)
            or above.startswith("#")
            or (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant))
        )
        if not name.startswith("_") and not described:
            missing.append(f"{public.name}.{name}")
    return missing


def raised_directly(node: ast.AST) -> set[str]:
    """Names of the exceptions that a function's own lines raise, not those of functions in it."""
    raised = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call):
            raised.add(ast.unparse(child.exc.func))
        raised |= raised_directly(child)
    return raised


def test_every_public_name_has_a_docstring():
    bare = [p.name for p in (*functions(), *classes()) if not ast.get_docstring(p.node)]
    assert not bare, "\n".join(["no docstring:", *bare])


def test_docstrings_name_every_parameter():
    missing = []
    for public in functions():
        if public.name.startswith("flops_fit.cli.") and VERB_FUNCTION.fullmatch(public.node.name):
            continue
        doc = ast.get_docstring(public.node) or ""
        missing += [
            f"{public.name}: {a.arg}" for a in parameters(public.node) if not names(doc, a.arg)
        ]
    assert not missing, "\n".join(["parameters that their docstring does not name:", *missing])


def test_classes_describe_what_they_are_built_from():
    missing = []
    for public in classes():
        doc = ast.get_docstring(public.node) or ""
        for child in public.node.body:
            if isinstance(child, ast.FunctionDef) and child.name == "__init__":
                text = doc + (ast.get_docstring(child) or "")
                missing += [
                    f"{public.name}: {a.arg}" for a in parameters(child) if not names(text, a.arg)
                ]
        if is_dataclass(public.node):
            missing += fields_without_a_word(public)
    assert not missing, "\n".join(["fields that nothing describes:", *missing])


def test_arrays_come_with_their_shape_or_columns():
    missing = []
    for public in functions():
        notes = [a.annotation for a in parameters(public.node)] + [public.node.returns]
        arrays = [note for note in notes if note and ARRAYS.search(ast.unparse(note))]
        doc = (ast.get_docstring(public.node) or "") + public.of_class
        if arrays and not SHAPE.search(doc):
            missing.append(public.name)
    assert not missing, "\n".join(["arrays without shape or columns:", *missing])


def test_refusals_are_announced():
    silent = [
        public.name
        for public in functions()
        if "FlopsFitError" in raised_directly(public.node)
        and not REFUSAL.search(ast.get_docstring(public.node) or "")
        and not (
            public.name.startswith("flops_fit.cli.") and VERB_FUNCTION.fullmatch(public.node.name)
        )
    ]
    assert not silent, "\n".join(["FlopsFitError raised without a word:", *silent])


def test_public_signatures_state_their_types():
    vague = []
    for public in functions():
        if any(
            public.name.startswith(f"flops_fit.{place}".replace("/", ".")) for place in ANY_ALLOWED
        ):
            continue
        notes = [a.annotation for a in parameters(public.node)] + [public.node.returns]
        texts_of = [JSON_OBJECT.sub("", ast.unparse(note)) for note in notes if note]
        if any(names(text, "Any") for text in texts_of):
            vague.append(public.name)
    assert not vague, "\n".join(["`Any` in a public signature:", *vague])


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every comment and string of a file; of a template, every line."""
    source = path.read_text()
    if path.suffix != ".py":
        yield from enumerate(source.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING) or token.type == FSTRING_TEXT:
            yield token.start[0], " ".join(token.string.split())


def templates() -> Iterator[Path]:
    """The templates of pages."""
    yield from sorted(PACKAGE.rglob("*.j2"))


def test_texts_are_in_plain_english():
    hits = []
    for path in (*modules(), *templates()):
        for line, text in texts(path):
            for pattern, better in COMPRESSED.items():
                if match := re.search(pattern, text):
                    place = path.relative_to(SOURCE)
                    hits.append(f"{place}:{line}: {match.group()!r}; better: {better}")
    assert not hits, "\n".join(hits)


def assigned(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of everything that a module names: variables, parameters, functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name


def test_no_participle_stands_for_a_noun():
    hits = [
        f"{path.relative_to(SOURCE)}:{line}: {name}"
        for path in modules()
        for line, name in assigned(ast.parse(path.read_text()))
        if name in PARTICIPLES
    ]
    assert not hits, "\n".join(hits)


@pytest.mark.parametrize(
    "text", ["a line a budget", "told in words", "the runs cannot tell the law"]
)
def test_the_patterns_match_what_they_are_for(text):
    assert any(re.search(pattern, text) for pattern in COMPRESSED)


@pytest.mark.parametrize("text", ["a row at a time", "ids of its own", "the runs in the fit"])
def test_the_patterns_let_plain_sentences_pass(text):
    assert not any(re.search(pattern, text) for pattern in COMPRESSED)
