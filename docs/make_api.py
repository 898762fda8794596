"""Write docs/api.md from signatures and docstrings, so that they cannot disagree (a test compares)."""

import argparse
import ast
import dataclasses
import inspect
import re
import textwrap
from importlib import import_module
from pathlib import Path
from typing import Any

from flops_fit.cli.main import make_parser

ROOT = Path(__file__).parents[1]
NAME = re.compile(r"(?<!`)`([A-Za-z_][\w.]*)`(?!`)")  # in docstrings: something to look up

HEAD = """# API reference

What a script, a notebook or a plug-in calls, made from the docstrings by `docs/make_api.py`; a test
compares the two. Names of `flops_fit.__all__` are imported from `flops_fit` itself, all others from the
module that their entry links to. Compute is in FLOPs, N in parameters, D in tokens (target elements),
loss in the unit of your loss function. Bad input raises [`FlopsFitError`](#flopsfiterror).
`loss_fn` is always your loss, called as `loss_fn(outputs, targets)`; `seq_len` is the number of tokens
in a window of text.
"""

# Section -> what it is for, and its names.
SECTIONS = {
    "The whole path": (
        "One call from a model to its law; [a notebook](find_optimal.ipynb) shows it at work.",
        ["api:find_optimal", "api:Result", "errors:FlopsFitError"],
    ),
    "Planning": (
        "",
        [
            "sweep:plan_sweep",
            "sweep:Experiment",
            "sweep:Skipped",
            "sweep:SweepPlan",
            "plan.window:window_sizes",
            "plan.counting:count_sizes",
            "sweep:ModelCount",
        ],
    ),
    "Training": (
        "",
        [
            "trainer:TrainingRunner",
            "experiment.options:TrainOptions",
            "experiment.options:DecidingOptions",
            "optimizer:adamw",
            "plan.schedule:rate_factor",
            "plan.schedule:multiplier",
            "plan.schedule:trunk_factor",
        ],
    ),
    "Fitting": (
        "From a table of runs, of this tool or of another, to the answer. The content of a fit is "
        "described in [its module](../src/flops_fit/fit/__init__.py).",
        [
            "fit.runs:read_runs",
            "fit.runs:prepare_runs",
            "fit.runs:RunTable",
            "fit.rows:Reading",
            "fit.sizes:Size",
            "fit.curves:read_curves",
            "fit.core:fit_runs",
            "fit.options:FitOptions",
            "fit.result:Fit",
            "fit.result:read_fit",
            "fit.prediction:predict",
            "fit.questions:ask",
            "fit.answer:Answer",
            "fit.prediction:optimum_at",
            "fit.prediction:losses_at",
            "fit.prediction:loss_at",
            "report.answer_lines:describe",
            "fit.sensitivity:sensitivity_at",
            "fit.sensitivity:spread_of",
        ],
    ),
    "Comparing": (
        "Two recipes at matched compute ([compare](compare.md)).",
        ["api:compare", "comparison.result:Comparison", "comparison.result:Row"],
    ),
    "Before and after a sweep": (
        "Playing a plan on a known law, and testing a prediction ([rounds](rounds.md)).",
        [
            "rounds.simulate:simulate",
            "rounds.simulate:design_of",
            "rounds.truth:truth_for",
            "rounds.truth:Truth",
            "rounds.confirm:predicted_loss",
            "rounds.confirm:compare",
        ],
    ),
    "For models, data and losses of your own": (
        "What the contracts rest on ([models](models.md), [data](data.md)).",
        [
            "model_factory:create_model",
            "model_factory:num_params",
            "model_factory:call_model",
            "data:Data",
            "data:as_data",
            "data:split_by_hash",
            "loss:cross_entropy",
            "loss:count_per_item",
            "loss:ignore_index_of",
            "plugins.resolve:resolve",
        ],
    ),
    "Data that comes along": (
        "",
        [
            "examples.corpus:prepare",
            "examples.documents:read_documents",
            "examples.text:prepare",
            "examples.text:windows",
            "examples.text:example_item",
            "examples.images:prepare",
            "examples.images:images",
            "examples.images:example_item",
        ],
    ),
}

WIDTH = {"width": 105, "break_long_words": False, "break_on_hyphens": False}
CONSTRUCTED = {"trainer:TrainingRunner"}  # by the caller; other classes are handed out


def lookup(reference: str) -> Any:
    module, name = reference.split(":")
    return getattr(import_module(f"flops_fit.{module}"), name)


def shown_names() -> list[str]:
    return [name for _, names in SECTIONS.values() for name in names]


def title(reference: str) -> str:
    """The heading: the bare name, with its module where the name alone is not unique."""
    module, name = reference.split(":")
    twins = sum(other.split(":")[1] == name for other in shown_names())
    return name if twins == 1 else f"{module.split('.')[-1]}.{name}"


def anchor(heading: str) -> str:
    """As GitHub makes them."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def methods(cls: type) -> list[str]:
    """Public methods and properties that a class itself defines; a caller needs no constructors."""
    return [
        name
        for name, member in vars(cls).items()
        if not name.startswith("_") and (isinstance(member, property) or inspect.isfunction(member))
    ]


# Signatures: annotations as the source has them, defaults as values.


def tree_of(thing: Any) -> Any:
    return ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]


def signature(function: Any, name: str) -> str:
    node = tree_of(function).args
    texts = {
        a.arg: ast.unparse(a.annotation)
        for a in [*node.args, *node.kwonlyargs, node.kwarg]
        if a and a.annotation
    }
    parts, starred = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parts, starred = [*parts, "*"], True
        prefix = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        note = f": {texts[parameter.name]}" if parameter.name in texts else ""
        default = "" if parameter.default is parameter.empty else value_text(parameter.default)
        equals = f" = {default}" if note and default else f"={default}" if default else ""
        parts.append(f"{prefix}{parameter.name}{note}{equals}")
    returned = tree_of(function).returns
    arrow = f" -> {ast.unparse(returned)}" if returned else ""
    return layout(name, parts, arrow.replace("'", ""))


def fields_of(cls: type) -> str:
    notes = {
        n.target.id: ast.unparse(n.annotation)
        for part in reversed(cls.__mro__)
        if dataclasses.is_dataclass(part)
        for n in tree_of(part).body
        if isinstance(n, ast.AnnAssign)
    }
    parts = []
    for field in dataclasses.fields(cls):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        known = default is not dataclasses.MISSING
        equals = f" = {value_text(default)}" if known else ""
        parts.append(f"{field.name}: {notes[field.name]}{equals}")
    return layout(cls.__name__, parts, "")


def value_text(value: Any) -> str:
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return repr(value) if "\n" not in repr(value) else f"{type(value).__name__}()"


def layout(name: str, parts: list[str], arrow: str) -> str:
    line = f"{name}({', '.join(parts)}){arrow}"
    if len(line) <= 92:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){arrow}"])


# Docstrings: reStructuredText's double backticks and Google's sections, as Markdown.


def docstring(thing: Any) -> str:
    return inspect.cleandoc(thing.__doc__ or "")


def prose(text: str, known: dict[str, str]) -> str:
    """A docstring as Markdown; names that this page has become links."""

    def link(match: re.Match) -> str:
        found = known.get(match[1]) or known.get(match[1].rpartition(".")[2])
        return f"[`{match[1]}`](#{found})" if found else match[0]

    text = NAME.sub(link, text).replace("``", "`")
    return "\n\n".join(map(section, re.split(r"\n\n+", text)))


def section(text: str) -> str:
    """A paragraph; one headed by a word such as Args or Raises becomes a list."""
    head, _, body = text.partition("\n")
    if not re.fullmatch(r"(Args|Attributes|Returns|Raises):", head):
        return text if re.search(r"^[- ]", text, re.MULTILINE) else textwrap.fill(text, **WIDTH)
    entries = re.split(r"\n(?! )", textwrap.dedent(body))
    bold = {"Args": "Arguments"}.get(head[:-1], head[:-1])
    if head == "Returns:":
        return f"**{bold}**: {' '.join(textwrap.dedent(body).split())}"
    items = [re.sub(r"^(\w+): ", r"`\1`: ", " ".join(entry.split())) for entry in entries]
    return f"**{bold}**\n\n" + "\n".join(f"- {item}" for item in items)


def page() -> str:
    """The whole text of docs/api.md."""
    known = {title(n): anchor(title(n)) for n in shown_names()}
    known |= {
        f"{n.split(':')[0].split('.')[-1]}.{n.split(':')[1]}": anchor(title(n))
        for n in shown_names()
    }
    lines = [HEAD]
    lines += [
        f"- [{name}](#{anchor(name)}): "
        + ", ".join(f"[`{title(n)}`](#{anchor(title(n))})" for n in names)
        for name, (_, names) in SECTIONS.items()
    ]
    lines.append(f"- [Commands](#{anchor('Commands')})\n")
    for name, (words, names) in SECTIONS.items():
        lines += [f"## {name}\n", *([words + "\n"] if words else [])]
        lines += [entry(reference, known) for reference in names]
    return "\n".join([*lines, commands()])


def entry(reference: str, known: dict[str, str]) -> str:
    """The section of one name, with the members of a class."""
    thing, module = lookup(reference), reference.split(":")[0]
    source = f"../src/flops_fit/{module.replace('.', '/')}.py"
    lines = [f"### {title(reference)}\n", f"[`flops_fit.{module}`]({source})\n"]
    if dataclasses.is_dataclass(thing):
        lines.append(block(fields_of(thing)))
    elif reference in CONSTRUCTED:
        lines.append(block(signature(thing.__init__, thing.__name__).removesuffix(" -> None")))
    elif not inspect.isclass(thing):
        lines.append(block(signature(thing, thing.__name__)))
    lines.append(prose(docstring(thing), known) + "\n")
    for name in methods(thing) if inspect.isclass(thing) else ():
        member, full = inspect.getattr_static(thing, name), f"{thing.__name__}.{name}"
        if isinstance(member, property):
            returned = tree_of(member.fget).returns
            lines.append(block(f"{full}: {ast.unparse(returned)}"))
        else:
            lines.append(block(signature(member, full)))
        lines.append(prose(docstring(member), known) + "\n")
    return "\n".join(lines)


def block(code: str) -> str:
    return f"```python\n{code}\n```\n"


def commands() -> str:
    lines = [
        "## Commands\n",
        "Of `flops-fit`; each explains its options with `--help`.\n",
        "| command | what it does |",
        "|---|---|",
    ]
    return "\n".join([*lines, *verbs(make_parser())]) + "\n"


def verbs(parser: argparse.ArgumentParser, before: str = "") -> list[str]:
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, verb in action.choices.items():
                rows.append(f"| `{before}{name}` | {verb.description} |")
                rows += verbs(verb, f"{before}{name} ")
    return rows


if __name__ == "__main__":
    ROOT.joinpath("docs", "api.md").write_text(page())
