"""The common style of all figures: colours by budget, log axes, and how files are written."""

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.collections import PathCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    Locator,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from flops_fit.files import write_atomic
from flops_fit.notation import count_text, flops_text, loss_text
from flops_fit.plots.hover import give_ids, name_drawn, title_of, with_titles

if TYPE_CHECKING:  # slow to import, and the figure of a plan has no table
    import pandas as pd

INK, MUTED, FAINT = "#1f2430", "#667085", "#e4e7ec"
BAND = "#9aa3b2"
FONTS = "'DejaVu Sans', 'Bitstream Vera Sans', Verdana, Geneva, sans-serif"
MARKERS = "osD^vPX"  # one per seed
KEY_SIZE, TICK_SIZE = 9.0, 9.0  # points
RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # part of matplotlib, so figures are the same on every machine
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#98a2b3",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": TICK_SIZE,
    "ytick.labelsize": TICK_SIZE,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": KEY_SIZE,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",  # text stays text, which can be searched and selected
    "pdf.fonttype": 42,  # TrueType: publishers refuse the Type 3 fonts that are the default
    "svg.hashsalt": "flops-fit",  # without it the ids of elements change from run to run
}
FORMATS: dict[str, dict[str, Any]] = {  # with the metadata of each, which must hold no time
    "svg": {"Date": None, "Creator": "flops-fit"},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": "flops-fit"},
}
RGBA = tuple[float, float, float, float]
# Viridis without its light end: every colour has a contrast of 3 or more on white (WCAG 2.1, 1.4.11).
SEQUENCE = LinearSegmentedColormap.from_list(
    "budgets", matplotlib.colormaps["viridis"](np.linspace(0.0, 0.595, 256))
)
# Greys, which differ from the colours of budgets.
NEUTRAL = LinearSegmentedColormap.from_list("neutral", ["#c9cfd9", "#f8f9fb"])
MOST_MARKS = (
    500  # per panel; with more, an SVG holds them as an image, and the page stays under 3 MB
)
MOST_LABELS = 8  # budgets with a label each; more get a colour bar


class BudgetColours:
    """Colours of compute budgets, sequential in log C over the range of ``flops``."""

    def __init__(self, flops: Sequence[float]):
        low, high = float(min(flops)), float(max(flops))
        if high < 1.1 * low:  # one budget: a colour in the middle
            low, high = low / 2, high * 2
        self.norm = LogNorm(low, high, clip=True)

    @overload
    def __call__(self, flops: float) -> RGBA: ...

    @overload
    def __call__(self, flops: "pd.Series") -> np.ndarray: ...

    def __call__(self, flops: "float | pd.Series") -> RGBA | np.ndarray:
        """RGBA of one budget, or of many with shape (n, 4)."""
        return SEQUENCE(self.norm(flops))

    def text(self, flops: float) -> RGBA:
        """The colour of the budget ``flops`` as RGBA, dark enough for text."""
        red, green, blue, alpha = 0.72 * np.array(self(flops)) + 0.28 * np.array(to_rgba(INK))
        return red, green, blue, alpha

    def bar(self, ax: Axes) -> None:
        """Draw a colour bar beside ``ax``."""
        from matplotlib.cm import ScalarMappable

        bar = ax.figure.colorbar(
            ScalarMappable(self.norm, SEQUENCE), ax=ax, pad=0.02, aspect=30, fraction=0.05
        )
        bar.outline.set_visible(False)
        log_axis(bar.ax.yaxis, flops_text)
        bar.set_label("compute C (FLOPs)")


def log_axis(axis: XAxis | YAxis, text: Callable[[float], str] = count_text) -> None:
    """Make ``axis`` logarithmic, with ticks that suit its range and ``text`` as their format."""
    least, most = axis.get_data_interval()
    if (
        0 < least <= most < 1.001 * least
    ):  # all at one place, where a log axis has no range of its own
        axis.axes.set(**{f"{axis.axis_name}lim": (least / 2, most * 2)})
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(_ticks(axis, text))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda v, _: text(float(f"{v:.6g}"))))


def _ticks(axis: XAxis | YAxis, text: Callable[[float], str]) -> Locator:
    """The densest ticks for the range of ``axis`` whose labels do not touch."""
    low, high = sorted(getattr(axis.axes, f"get_{axis.axis_name}lim")())
    decades = np.log10(high / low)
    linear = [MaxNLocator(n, steps=(1, 2, 2.5, 5, 10)) for n in (5, 4, 3, 2)]  # for under a decade
    logs = [LogLocator(subs=subs, numticks=30) for subs in ((1, 2, 5), (1, 3), (1,), (3,), (5,))]
    logs += [LogLocator(numticks=n) for n in (9, 6, 4, 3)]
    dense = 0 if decades < 1.6 else 1 if decades < 3.2 else 2
    choices = linear if decades < 0.8 else logs[dense:]
    for locator in choices if axis.axis_name == "x" else choices[:1]:
        values = [v for v in locator.tick_values(low, high) if low <= v <= high]
        apart = _apart(axis.axes, np.log(values), decades * np.log(10), text)
        if axis.axis_name == "y" or (apart and len(values) > 1):
            break
    return locator


def _apart(ax: Axes, places: np.ndarray, span: float, text: Callable[[float], str]) -> bool:
    """Whether the labels at ``places`` (ln x) leave a gap between them on ``ax``, ``span`` wide."""
    room = 0.85 * 72 * ax.get_window_extent().width / ax.figure.dpi  # points, without the margins
    labels = [text(float(f"{np.exp(place):.6g}")) for place in places]
    widths = 0.62 * TICK_SIZE * np.array([_letters(label) for label in labels])
    gaps = np.diff(places) / span * room
    return bool((gaps > (widths[:-1] + widths[1:] + TICK_SIZE) / 2).all())


def _letters(label: str) -> float:
    """The width of a ``label`` in digits: points are half as wide, raised digits 0.6 times."""
    return len(label) - 0.5 * label.count(".") - 0.4 * sum(letter in RAISED for letter in label)


def tick_count(value: float) -> str:
    """``value`` as a count on an axis: 100k, not 100.0k."""
    text = count_text(value)
    head = text.rstrip("kMBT")
    return (head.rstrip("0").rstrip(".") if "." in head else head) + text[len(head) :]


def tick_loss(value: float) -> str:
    """``value`` as a loss on an axis: 2.5, not 2.5000."""
    return loss_text(value).rstrip("0").rstrip(".")


def budget_handles(colours: BudgetColours, budgets: Sequence[float]) -> list:
    """Legend entries for ``budgets`` (FLOPs) in their ``colours``."""
    from matplotlib.lines import Line2D

    unit = [*[""] * (len(budgets) - 1), " FLOPs"]
    return [
        Line2D([], [], color=colours(c), linewidth=2, label=flops_text(c) + after)
        for c, after in zip(budgets, unit, strict=True)
    ]


def key(ax: Axes, handles: list) -> None:
    """Draw the legend of ``handles`` above ``ax``, in as many columns as fit its width."""
    if not handles:
        return
    widths = [KEY_SIZE * (0.55 * len(handle.get_label()) + 3.6) for handle in handles]  # points
    room = 72 * ax.figure.bbox.width / ax.figure.dpi - 45
    for rows in range(1, len(handles) + 1):
        if sum(max(widths[i : i + rows]) for i in range(0, len(widths), rows)) <= room:
            break
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=-(-len(handles) // rows),
        borderaxespad=0.2,
        handletextpad=0.5,
        columnspacing=1.4,
        handlelength=1.6,
        labelcolor=MUTED,
    )


def beside(ax: Axes, text: str, y: float) -> None:
    """Write ``text`` to the right of ``ax`` at the height ``y``, where nothing is drawn."""
    ax.annotate(
        text,
        (1, y),
        xycoords=("axes fraction", "data"),
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        color=MUTED,
        fontsize=8.5,
        annotation_clip=False,
    )


def star(
    ax: Axes,
    minimum: "pd.Series",
    at: tuple[str, str],
    colour: RGBA,
    size: float,
    width: float,
    zorder: int,
) -> None:
    """Draw a measured ``minimum`` on ``ax``, hollow where it was not used; it says its numbers.

    ``at`` are its columns for x and y, ``colour`` is that of its budget, ``size`` its area in square
    points, ``width`` that of its line in points; ``zorder`` is its place among what is drawn.
    """
    used = minimum["status"] == "bracketed"
    drawn = ax.scatter(
        minimum[at[0]],
        minimum[at[1]],
        s=size,
        marker="*",
        zorder=zorder,
        linewidths=width,
        facecolors=[colour] if used else "white",
        edgecolors=[INK if used else colour],
    )
    budget = minimum["budget"] if "budget" in minimum else minimum["flops"]
    title = f"{'minimum' if used else 'no minimum, not used'}: {title_of(minimum)}"
    name_drawn(drawn, budget, title)


def spread(positions: np.ndarray, gap: float) -> np.ndarray:
    """Move labels at ``positions`` (n,) apart, in the same order, until neighbours are ``gap`` away."""
    order = np.argsort(positions, kind="stable")
    placed = np.array(positions, dtype=float)[order]
    for _ in range(100):
        short = gap - np.diff(placed)
        if (short <= 1e-9).all():
            break
        for i in np.flatnonzero(short > 0):
            placed[i] -= short[i] / 2
            placed[i + 1] += short[i] / 2
    result = np.empty_like(placed)
    result[order] = placed
    return result


def message(ax: Axes, text: str) -> Axes:
    """Write ``text`` on ``ax`` in place of a figure: why there is nothing to draw."""
    import textwrap

    ax.set_axis_off()
    ax.text(
        0.5,
        0.5,
        textwrap.fill(text, 60),
        ha="center",
        va="center",
        color=MUTED,
        transform=ax.transAxes,
        fontsize=10,
        linespacing=1.5,
        in_layout=False,
    )
    return ax


def drawn_as(figure: Figure, kind: str, dpi: int = 150) -> bytes:
    """The ``figure`` as the bytes of a file of ``kind``, one of `FORMATS`.

    ``dpi`` is the resolution of a PNG file. In an SVG all that is named says its numbers, and fonts of
    the same widths stand in for DejaVu Sans where it is not installed. The same figure always gives the
    same bytes.
    """
    named, content = give_ids(figure), io.BytesIO()
    figure.savefig(content, format=kind, metadata=FORMATS[kind], dpi=dpi)
    if kind != "svg":
        return content.getvalue()
    return with_titles(re.sub(rb"'DejaVu Sans'(?!,)", FONTS.encode(), content.getvalue()), named)


def _rasterize_dense(figure: Figure) -> None:
    """Make an SVG hold the marks of a crowded panel as an image; lines and text stay sharp."""
    for ax in figure.axes:
        marks = [part for part in ax.collections if isinstance(part, PathCollection)]
        if sum(len(np.asarray(part.get_offsets())) for part in marks) > MOST_MARKS:
            for part in marks:
                part.set_rasterized(True)


def save(
    figure: Figure,
    numbers: "pd.DataFrame",
    folder: str | Path,
    name: str,
    dpi: int,
    formats: Sequence[str] = ("svg", "png"),
) -> None:
    """Write ``figure`` in ``formats`` and its table ``numbers`` as ``name``.csv to ``folder``.

    ``formats`` are keys of `FORMATS`; ``dpi`` is the resolution of a PNG file. The same input always
    gives the same bytes.
    """
    from flops_fit.fit.tables import without_formulas

    _rasterize_dense(figure)
    for kind in formats:
        write_atomic(Path(folder, f"{name}.{kind}"), drawn_as(figure, kind, dpi))
    write_atomic(
        Path(folder, f"{name}.csv"),
        without_formulas(numbers).to_csv(index=False, lineterminator="\n", float_format="%.8g"),
    )
