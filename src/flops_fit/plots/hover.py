"""What a mark of a figure says when the pointer rests on it: its run and its numbers.

Matplotlib writes one element per mark into an SVG. Each gets a title, which browsers show and screen
readers read, without a script, and its budget, by which the script of the page dims the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from matplotlib.artist import Artist
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from flops_fit.notation import count_text, flops_text, loss_text

if TYPE_CHECKING:  # slow to import, and the figure of a plan has no table
    import pandas as pd

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
NAMED = "_flops_fit_named"  # attribute of what is drawn
BUDGET = "data-c"  # attribute of an element of an SVG
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


@dataclass(frozen=True)
class Named:
    """What the marks of one group say: ``titles``, one each, and ``budgets`` in FLOPs, one each.

    A group without titles has one budget, as a whole.
    """

    titles: Sequence[str] = ()
    budgets: Sequence[float] = ()


def name_marks(marks: PathCollection, rows: "pd.DataFrame") -> None:
    """Let each of ``marks`` say the run and the numbers of its row in ``rows``, in the same order."""
    from pandas import notna

    columns = [(key, text) for key, text in NUMBERS if key in rows]
    titles = [
        ", ".join(text(row[key]) for key, text in columns if notna(row[key]))
        for row in rows.to_dict("records")
    ]
    cost = next((key for key in ("budget", "flops") if key in rows), None)
    setattr(marks, NAMED, Named(titles, [] if cost is None else rows[cost].tolist()))


def name_budget(drawn: Artist, flops: float) -> None:
    """Let ``drawn``, a line, a label or a mark, belong to the budget ``flops``."""
    setattr(drawn, NAMED, Named(budgets=[float(flops)]))


def give_ids(figure: Figure) -> dict[str, Named]:
    """Give an id to all that is named in ``figure``; the names by id. It must precede drawing."""
    named: dict[str, Named] = {}
    for drawn in figure.findobj(lambda artist: hasattr(artist, NAMED)):
        if not drawn.get_rasterized():
            drawn.set_gid(f"marks-{len(named)}")
            named[f"marks-{len(named)}"] = getattr(drawn, NAMED)
    return named


def with_titles(svg: bytes, named: Mapping[str, Named]) -> bytes:
    """The ``svg`` with a title in each mark of the groups in ``named``, and their budgets as ``data-c``.

    A group with another number of marks than titles is left as it is: some of its marks were not
    drawn, and a title on the wrong mark would be worse than none.
    """
    if not named:
        return svg
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(svg)
    for group in root.iter(f"{{{SVG}}}g"):
        names = named.get(group.get("id", ""), Named())
        marks = _marks(group) if names.titles else [group]
        for mark, budget in zip(marks, names.budgets, strict=False):
            if len(marks) == len(names.budgets):
                mark.set(BUDGET, f"{budget:.6g}")
        if names.titles and len(marks) == len(names.titles):
            for mark, text in zip(marks, names.titles, strict=True):
                ElementTree.SubElement(mark, f"{{{SVG}}}title").text = text
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _marks(group: ElementTree.Element) -> list[ElementTree.Element]:
    """The elements of single marks: references to a shape, or shapes where there are few marks."""
    uses = list(group.iter(f"{{{SVG}}}use"))
    if uses:
        return uses
    defined = {id(path) for defs in group.iter(f"{{{SVG}}}defs") for path in defs.iter()}
    return [path for path in group.iter(f"{{{SVG}}}path") if id(path) not in defined]
