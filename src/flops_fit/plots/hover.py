"""What a mark of a figure says when the pointer rests on it: its run and its numbers.

Matplotlib writes one element per mark into an SVG. Each gets a title, which browsers show and screen
readers read, without a script.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import pandas as pd
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from flops_fit.notation import count_text, flops_text, loss_text

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
TITLES = "_flops_fit_titles"  # attribute of a collection of marks
NUMBERS: tuple[tuple[str, Any], ...] = (
    ("experiment_id", str),
    ("budget", lambda value: f"C {flops_text(value)}"),
    ("flops", lambda value: f"C {flops_text(value)}"),
    ("params", lambda value: f"N {count_text(value)}"),
    ("tokens", lambda value: f"D {count_text(value)}"),
    ("loss", lambda value: f"loss {loss_text(value)}"),
    ("residual", lambda value: f"residual {100 * value:+.2f}%"),
    ("flops_per_second", lambda value: f"{flops_text(value)} FLOP/s"),
)


def name_marks(marks: PathCollection, rows: pd.DataFrame) -> None:
    """Let each of ``marks`` say the run and the numbers of its row in ``rows``, in the same order."""
    columns = [(key, text) for key, text in NUMBERS if key in rows]
    titles = [
        ", ".join(text(row[key]) for key, text in columns if pd.notna(row[key]))
        for row in rows.to_dict("records")
    ]
    setattr(marks, TITLES, titles)


def give_ids(figure: Figure) -> dict[str, list[str]]:
    """Give an id to all named marks of ``figure``; the titles by id. It must precede drawing."""
    titles: dict[str, list[str]] = {}
    for marks in figure.findobj(lambda artist: hasattr(artist, TITLES)):
        if not marks.get_rasterized():
            marks.set_gid(f"marks-{len(titles)}")
            titles[f"marks-{len(titles)}"] = getattr(marks, TITLES)
    return titles


def with_titles(svg: bytes, titles: Mapping[str, Sequence[str]]) -> bytes:
    """The ``svg`` with a title in each mark of the groups in ``titles``.

    A group with another number of marks than titles is left as it is: some of its marks were not
    drawn, and a title on the wrong mark would be worse than none.
    """
    if not titles:
        return svg
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(svg)
    for group in root.iter(f"{{{SVG}}}g"):
        texts = titles.get(group.get("id", ""), ())
        marks = _marks(group)
        if texts and len(marks) == len(texts):
            for mark, text in zip(marks, texts, strict=True):
                ElementTree.SubElement(mark, f"{{{SVG}}}title").text = text
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _marks(group: ElementTree.Element) -> list[ElementTree.Element]:
    """The elements of single marks: references to a shape, or shapes where there are few marks."""
    uses = list(group.iter(f"{{{SVG}}}use"))
    if uses:
        return uses
    defined = {id(path) for defs in group.iter(f"{{{SVG}}}defs") for path in defs.iter()}
    return [path for path in group.iter(f"{{{SVG}}}path") if id(path) not in defined]
