"""What the FAQ and the guide to the report name exists, and nothing that the source says is left out."""

import ast
import re
from functools import cache
from pathlib import Path

import measured_sweep
import pytest
import yaml

from flops_fit.cli.main import make_parser
from flops_fit.constants import Status
from flops_fit.fit import fit_runs, prepare_runs
from flops_fit.fit.answer import VERDICTS
from flops_fit.fit.isoflop import STATUSES
from flops_fit.plan.table import COLUMNS
from flops_fit.report import evidence
from flops_fit.store.collect import run_table

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "flops_fit"
FAQ, REPORT = ((ROOT / "docs" / name).read_text() for name in ("faq.md", "report.md"))
PITFALLS = re.split(r"^### ", FAQ.partition("\n## Short questions")[0], flags=re.MULTILINE)[1:]
SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())


def named(page: str, target: str) -> set[str]:
    """Inline code that links to ``target``."""
    return set(re.findall(rf"\[`([^`]+)`\]\({re.escape(target)}\)", page))


def plain(text: str) -> str:
    return " ".join(text.replace("\\*", "*").split())


def quotations(page: str) -> list[str]:
    """What a page quotes of messages: *"so"*, with … for values."""
    return [plain(quote) for quote in re.findall(r'\*"(.+?)"\*', page, re.DOTALL)]


@cache
def texts(path: Path, *functions: str) -> tuple[str, ...]:
    """Strings of a module, or of some of its functions; values in them are written …"""
    tree = ast.parse(path.read_text())
    if functions:
        tree.body = [n for n in tree.body if getattr(n, "name", None) in functions]
        assert len(tree.body) == len(functions), path
    parts = {id(v) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for v in n.values}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append(
                "".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
            )
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts
        ):
            found.append(node.value)
    return tuple(plain(text) for text in found)


def test_there_are_sixteen_pitfalls_each_told_whole_and_proved():
    assert [p.split(".")[0] for p in PITFALLS] == [str(i) for i in range(1, 17)]
    for pitfall in PITFALLS:
        for part in ("- **Prevents**:", "- **Reports**:", "- **Left to you**:"):
            assert pitfall.count(part) == 1, pitfall
        (proofs,) = re.findall(r"<!-- proved by: (.*?) -->", pitfall)
        for path, test in (proof.split("::") for proof in proofs.split(", ")):
            assert re.search(rf"def {test}\(", (ROOT / path).read_text()), test


def test_every_key_of_a_config_that_the_faq_names_is_in_the_schema():
    keys = named(FAQ, "../config/README.md")
    assert len(keys) > 15
    for key in keys:
        level = SCHEMA
        for part in key.split("."):
            assert part in level["properties"], key
            level = level["properties"][part]


def test_every_column_and_number_that_the_faq_names_is_in_its_file():
    columns = run_table(measured_sweep.records()[:1], "counted")[0]
    assert named(FAQ, "report.md#resultscsv") <= set(columns)
    assert named(FAQ, "report.md#plancsv") <= set(COLUMNS)
    runs = prepare_runs(measured_sweep_frame())
    fit = fit_runs(runs, bootstrap=0, sensitivity=False)
    for path in named(FAQ, "report.md#fitjson"):
        level = fit.to_dict()
        for part in path.split("."):
            level = level[part]


def measured_sweep_frame():
    import pandas as pd

    return pd.DataFrame(run_table(measured_sweep.records(), "counted"))


@pytest.mark.parametrize("page", [FAQ, REPORT], ids=["faq", "report"])
def test_every_command_and_option_named_exists(page):
    verbs = make_parser()._subparsers._group_actions[0].choices
    commands = re.findall(r"`flops-fit ([^`]+)`", page)
    assert commands
    for words in map(str.split, commands):
        options = verbs[words[0]].format_help()
        for option in (word for word in words[1:] if word.startswith("--")):
            assert re.search(rf"{option}\b", options), words


def test_every_message_that_the_faq_quotes_is_in_the_source():
    source = " ".join(
        [
            *(t for path in SOURCE.rglob("*.py") for t in texts(path)),
            *(plain(path.read_text()) for path in SOURCE.rglob("*.j2")),
        ]
    )
    quoted = quotations(FAQ)
    assert len(quoted) > 15
    assert [q for q in quoted if q not in source] == []


def test_the_arithmetic_on_published_constants():
    def tokens_per_parameter(a_, b_, alpha, beta, flops):
        ratio = (alpha * a_ / (beta * b_)) ** (1 / (alpha + beta))
        params = ratio * (flops / 6) ** (beta / (alpha + beta))
        return flops / 6 / params**2

    hoffmann = tokens_per_parameter(406.4, 410.7, 0.34, 0.28, 5.76e23)
    besiroglu = tokens_per_parameter(482.01, 2085.43, 0.3478, 0.3658, 5.76e23)
    assert f"{hoffmann:.0f} tokens per parameter, the refitted ones {besiroglu:.0f}" in plain(FAQ)
    assert f"a factor {1000 ** (1.09 - 1):.1f} over three decades" in plain(FAQ)


def test_the_guide_follows_the_pages_section_by_section():
    headings = re.findall(r"^#+ (.*)$", REPORT, re.MULTILINE)
    for template in ("report/page.html.j2", "report/plan.html.j2"):
        text = (SOURCE / template).read_text()
        sections = re.findall(
            r"^ *<h2>(.*?)</h2>", text, re.MULTILINE
        )  # those of cards share a line
        assert len(sections) > 2
        assert sections == [h for h in headings if h in sections]


def test_every_status_in_the_source_is_explained_by_the_guide():
    judged = {"converged", "at_bound", "not_identifiable"}
    assert judged <= set(texts(SOURCE / "fit/identify.py", "identify"))
    rows = re.findall(r"^\|(.*?)\|(.*?)\|", REPORT, re.MULTILINE)
    explained = {word for row in rows for cell in row for word in re.findall(r"`(\w+)`", cell)}
    assert {*STATUSES, *judged, *Status} <= explained
    for verdict in ("trust", "provisional", "not identifiable"):
        assert verdict in VERDICTS
        assert f"**{verdict}**:" in REPORT


REASONS = {
    "fit/verdict.py": ("reasons_at", "_distance", "_runs", "unanswerable", "untested_run"),
    "fit/core.py": ("_warnings", "_notes"),
    "fit/identify.py": ("identify", "too_little"),
    "fit/heldout.py": ("fallback",),
    "fit/envelope.py": ("estimate_envelope",),
    "fit/estimators.py": ("path_through",),
    "plan/warnings.py": (
        "_too_little",
        "_few_budgets",
        "_few_sizes",
        "_lopsided",
        "_off_centre",
        "_short",
        "_repeated",
        "_far",
    ),
    "plan/counting.py": ("ratio_warnings",),
}


@pytest.mark.parametrize("module", REASONS)
def test_every_reason_that_can_be_given_is_explained_by_the_guide(module):
    shown = quotations(REPORT)
    missing = [
        text
        for text in texts(SOURCE / module, *REASONS[module])
        if said(text) and not any(matches(q, text) or matches(text, q) for q in shown)
    ]
    assert missing == []


def said(text: str) -> bool:
    """Whether a string is a sentence for a reader: not a key, a format or a docstring."""
    return len(text.split()) >= 3 and not text.endswith(".") and "``" not in text


def matches(quote: str, text: str) -> bool:
    """Whether the pieces of a quotation between … occur in a string, in their order."""
    pieces = [p.strip(" ,;:%") for p in quote.split("…") if len(p.strip(" ,;:%")) > 3]
    return bool(pieces) and bool(re.search(".*".join(map(re.escape, pieces)), text))


def test_the_words_for_each_minimum_are_those_of_the_page():
    words = [
        w
        for w in texts(SOURCE / "fit/entries.py")
        if w.startswith(
            ("the vertex is", "the lowest loss is", "the parabola opens", "fewer than 4")
        )
    ]
    assert len(words) == len(STATUSES)
    for text in (*words, *evidence.STATUSES.values()):
        assert text in plain(REPORT), text
