"""Every file that a page of the documentation links to exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("config/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    named = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text())
    assert [name for name in named if not (page.parent / name).exists()] == []
