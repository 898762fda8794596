"""Figures inside the page: SVG with unique ids, and the numbers as a data link."""

import base64
import re
from pathlib import Path
from xml.etree import ElementTree

from flops_fit.errors import FlopsFitError
from flops_fit.plots import FIGURES
from flops_fit.report.commands import place

MOST_BYTES = 250_000  # of a figure's numbers that the page holds; more lie beside the figure only
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def inline_svg(path: Path, name: str, title: str) -> str:
    """The SVG file ``path`` for use inside a page, with ``title`` as its description.

    Ids get the prefix ``name``: several matplotlib figures in one page would otherwise share ids,
    and one would use the clip paths and glyphs of another. The page sets the size. Raises
    `FlopsFitError` for a file that is missing or not SVG.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise FlopsFitError(
            f"{path}: this figure does not exist; run `flops-fit plot` first"
        ) from None
    except ElementTree.ParseError as error:
        raise FlopsFitError(f"{path}: not an SVG file ({error})") from None
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif key.endswith("href") and value.startswith("#"):
                element.set(key, f"#{name}-{value[1:]}")
            elif "url(#" in value:
                element.set(key, re.sub(r"url\(#", f"url(#{name}-", value))
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", title)
    return ElementTree.tostring(root, encoding="unicode")


def figures_of(folder: str | Path) -> dict[str, dict]:
    """Each figure in ``folder`` as inline SVG, with its numbers as a data link.

    Where they would make the page too large, ``file`` names the file of the numbers instead.
    """
    figures = {}
    for name, title in FIGURES.items():
        numbers = Path(folder, f"{name}.csv")
        content = numbers.read_bytes() if numbers.exists() else b""
        held = 0 < len(content) <= MOST_BYTES
        figures[name] = {
            "name": name,
            "svg": inline_svg(Path(folder, f"{name}.svg"), name, title),
            "csv": f"data:text/csv;base64,{base64.b64encode(content).decode()}" if held else "",
            "file": "" if held or not content else place(numbers),
        }
    return figures
