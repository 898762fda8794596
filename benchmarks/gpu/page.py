"""docs/gpu.md: the figures of all parts, from the lines that a machine with a GPU has left."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).with_suffix(".md")
NOTHING = """\
**Nothing has been measured yet.** No machine with a GPU was at hand: what is described here is written
and, as far as a CPU can, tested, but no figure of a GPU stands behind it.
"""
HEAD = (
    "| part | what | figure | holds | card, driver, torch | command |\n|---|---|---|---|---|---|\n"
)
HOLDS = {True: "yes", False: "**no**", None: "-"}


def read(path: Path) -> list[dict[str, Any]]:
    """The lines in the file ``path``, none where it is missing."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def page(lines: Iterable[Mapping[str, Any]]) -> str:
    """The page with ``lines``, in the order of their parts."""
    rows = [row(line) for line in sorted(lines, key=lambda line: line["part"])]
    state = NOTHING if not rows else "## Measured\n\n" + HEAD + "".join(rows)
    return TEMPLATE.read_text().replace("{state}", state)


def row(line: Mapping[str, Any]) -> str:
    on = ", ".join(line[key] for key in ("card", "driver", "torch"))
    cells = [line["part"], line["what"], line["figure"], HOLDS[line["holds"]], on]
    text = " | ".join(str(cell).replace("|", "/").replace("\n", " ") for cell in cells)
    return f"| {text} | `{line['command']}` |\n"
