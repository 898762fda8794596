"""The API reference is current, whole, and its docstrings name what a caller has to give."""

import dataclasses
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

import flops_fit
import flops_fit.fit
from flops_fit.cli.main import make_parser

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text()
NAMED = r"``[^`]*\b{0}\b[^`]*``|^\s*{0}: "  # in code, or as an entry of Args or Attributes


@pytest.fixture(scope="module")
def api():
    sys.path.insert(0, str(ROOT / "docs"))
    yield importlib.import_module("make_api")
    sys.path.remove(str(ROOT / "docs"))


def published(api) -> dict[str, tuple]:
    """What the page shows: name -> (names of its parameters or fields, docstring)."""
    found = {}
    for reference in api.shown_names():
        thing = api.lookup(reference)
        if not inspect.isclass(thing):
            found[reference] = parameters(thing), api.docstring(thing)
            continue
        fields = dataclasses.fields(thing) if dataclasses.is_dataclass(thing) else ()
        parents = [part for part in thing.__mro__ if dataclasses.is_dataclass(part)]
        texts = "\n".join(map(api.docstring, parents or [thing]))
        found[reference] = [field.name for field in fields], texts
        for name in api.methods(thing):
            member = inspect.getattr_static(thing, name)
            taken = [] if isinstance(member, property) else parameters(member)
            found[f"{reference}.{name}"] = taken, api.docstring(member)
    return found


def parameters(function) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "_")]


def test_the_page_is_what_the_docstrings_say(api):
    assert api.page() == PAGE, "run python docs/make_api.py"


def test_every_public_name_has_its_entry(api):
    shown = {name.split(":")[1] for name in api.shown_names()}
    assert {*flops_fit.__all__, *flops_fit.fit.__all__} <= shown


def test_every_entry_says_what_it_does_and_names_all_that_it_takes(api):
    at_the_head = re.findall(r"`(\w+)` is ", api.HEAD)
    missing = [
        f"{name}: {parameter or 'no docstring'}"
        for name, (taken, text) in published(api).items()
        for parameter in (taken if text else [""])
        if parameter not in at_the_head
        and not re.search(NAMED.format(parameter), text, re.MULTILINE)
    ]
    assert missing == []


def test_links_within_the_page_lead_to_a_heading(api):
    headings = {api.anchor(line.lstrip("# ")) for line in PAGE.splitlines() if line.startswith("#")}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= headings


def test_every_verb_of_the_parser_stands_under_commands():
    told = re.findall(r"  (\w+) +[A-Z]", make_parser().format_help())
    assert len(told) > 10
    assert [verb for verb in told if f"| `{verb}` |" not in PAGE] == []
