"""The pages hang together: files and headings that links name exist, and each page has its place."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("[a-z]*/README.md")])
INDEX = ROOT / "docs" / "index.md"
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")
ENVIRONMENT = ROOT / ".venv-docs"


def text_of(page: Path) -> str:
    """The page without fenced blocks, in which # begins a comment and brackets are code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    lost = []
    for name, anchor in LINK.findall(text_of(page)):
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(f"{name}#{anchor}")
    assert lost == []


def test_every_page_stands_in_the_navigation_once():
    listed = []
    for tree in re.findall(r"^```\{toctree\}\n(.*?)^```$", INDEX.read_text(), re.M | re.S):
        entries = [line for line in tree.splitlines() if line and not line.startswith(":")]
        listed += [re.sub(r".*<(.*)>", r"\1", entry) for entry in entries]
    found = [(INDEX.parent / f"{entry}.md").resolve() for entry in listed]
    assert len(found) == len(set(found))
    assert {*ROOT.glob("docs/*.md")} - {INDEX} <= set(found)
    assert set(found) <= set(PAGES)


def may_leave_the_network() -> bool:
    """Not without root, nor inside of most containers."""
    return bool(shutil.which("unshare")) and not subprocess.call(["unshare", "--net", "true"])


@pytest.mark.docs
@pytest.mark.skipif(not ENVIRONMENT.exists(), reason="`make docs` has not made its environment")
def test_the_site_builds_without_a_network_and_without_a_warning(tmp_path):
    """From a copy, so that nothing of an earlier build helps."""
    copy = tmp_path / "clone"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "build", "runs", "tests"))
    # A network of its own without any interface, where the system lets us have one.
    alone = ["unshare", "--net"] if may_leave_the_network() else []
    build = [ENVIRONMENT / "bin" / "sphinx-build", "-W", "--keep-going", "-q", "-c", "docs", "."]
    done = subprocess.run(
        [*alone, *map(str, build), "site"], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    page = (copy / "site/docs/tutorial.html").read_text()
    assert 'content="width=device-width' in page
    assert not re.search(r'<(?:script|img)[^>]*src="https?:|<link[^>]*stylesheet[^>]*https?:', page)
