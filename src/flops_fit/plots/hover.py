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
    ("learning_rate", lambda value: f"rate {value:.3g}"),
    ("loss", lambda value: f"loss {loss_text(value)}"),
    ("residual", lambda value: f"residual {100 * value:+.2f}%"),
    ("flops_per_second", lambda value: f"{flops_text(value)} FLOP/s"),
)


@dataclass(frozen=True)
class Named:
    """What a group says: ``titles`` and ``budgets`` in FLOPs, for ``each`` of its marks or for all.

    Either list may be empty; a group that is named as a whole has at most one entry in it.
    """

    titles: Sequence[str] = ()
    budgets: Sequence[float] = ()
    each: bool = False


def title_of(row: Mapping[str, Any]) -> str:
    """The run and the numbers of ``row``, those that are known, by the names of columns."""
    known = ((text, row[key]) for key, text in NUMBERS if key in row)
    return ", ".join(text(value) for text, value in known if value is not None and value == value)


def name_marks(marks: PathCollection, rows: "pd.DataFrame") -> None:
    """Let each of ``marks`` say the run and the numbers of its row in ``rows``, in the same order."""
    cost = next((key for key in ("budget", "flops") if key in rows), None)
    titles = [title_of(row) for row in rows.to_dict("records")]
    name_each(marks, titles, [] if cost is None else rows[cost].tolist())


def name_each(marks: Artist, titles: Sequence[str], budgets: Sequence[float]) -> None:
    """Let each of ``marks`` say one of ``titles`` and belong to one of ``budgets`` (FLOPs)."""
    setattr(marks, NAMED, Named(titles, budgets, each=True))


def name_drawn(drawn: Artist, flops: float | None = None, title: str = "") -> None:
    """Let ``drawn``, a line, a label or a mark, belong to the budget ``flops`` and say ``title``."""
    budgets = [] if flops is None else [float(flops)]
    setattr(drawn, NAMED, Named([title] if title else [], budgets))


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
        marks = _marks(group) if names.each else [group]
        if len(marks) == len(names.budgets):
            for mark, budget in zip(marks, names.budgets, strict=True):
                mark.set(BUDGET, f"{budget:.6g}")
        if len(marks) == len(names.titles):
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
