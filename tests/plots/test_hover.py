"""What marks say when the pointer rests on them, and that every budget can be seen on white."""

import io
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from flops_fit.plots.hover import SVG, XLINK, give_ids, name_drawn, name_marks, with_titles
from flops_fit.plots.style import STYLE, BudgetColours


def drawn(rows: pd.DataFrame, **style) -> list[tuple[float, str]]:
    """The marks of a scatter of ``rows`` in an SVG: horizontal position and title."""
    with matplotlib.rc_context(STYLE):
        figure = Figure()
        ax = figure.subplots()
        name_marks(ax.scatter(rows["params"], rows["loss"], **style), rows)
        ax.set_xscale("log")
        ax.set_xlim(rows["params"].min() / 2, rows["params"].max() * 2)
        titles = give_ids(figure)
        content = io.BytesIO()
        figure.savefig(content, format="svg")
    root = ElementTree.fromstring(with_titles(content.getvalue(), titles))
    (group,) = [g for g in root.iter(f"{{{SVG}}}g") if g.get("id") == "marks-0"]
    marks = [m for m in group.iter() if m.find(f"{{{SVG}}}title") is not None]
    return [(float(m.get("x", "nan")), m.find(f"{{{SVG}}}title").text) for m in marks]


def runs(count: int) -> pd.DataFrame:
    params = np.geomspace(1e3, 1e6, count)[np.random.default_rng(0).permutation(count)]
    names = [f"run-{i}" for i in range(count)]
    return pd.DataFrame({"experiment_id": names, "params": params, "loss": 2 + 1e3 / params})


def test_every_mark_says_its_own_run_and_numbers():
    rows = runs(40)
    marks = drawn(rows, c=np.linspace(0, 1, 40))
    assert len(marks) == 40
    order = np.argsort(rows["params"].to_numpy())
    assert [title.split(",")[0] for _, title in sorted(marks)] == [f"run-{i}" for i in order]
    first = rows.iloc[0]
    assert marks[0][1] == f"run-0, N {first['params'] / 1e3:.3g}k, loss {first['loss']:.4f}"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_marks_have_titles_too(count):
    assert [title.split(",")[0] for _, title in drawn(runs(count))] == [
        f"run-{i}" for i in range(count)
    ]


def test_where_a_mark_was_not_drawn_no_mark_has_a_title():
    rows = runs(8)
    rows.loc[3, "loss"] = np.nan
    assert drawn(rows) == []


def test_what_is_named_as_a_whole_has_one_title_and_one_budget():
    figure = Figure()
    (line,) = figure.subplots().plot(range(3), range(3), "o-")
    name_drawn(line, 3e10, "the demo's")
    titles, content = give_ids(figure), io.BytesIO()
    figure.savefig(content, format="svg")
    root = ElementTree.fromstring(with_titles(content.getvalue(), titles))
    (group,) = [g for g in root.iter() if g.get("data-c")]
    assert (group.get("data-c"), group.find(f"{{{SVG}}}title").text) == ("3e+10", "the demo's")
    assert len([*root.iter(f"{{{SVG}}}title")]) == 1


def test_a_shape_is_referred_to_by_each_mark():
    """What `with_titles` relies on: matplotlib writes one reference per mark."""
    figure = Figure()
    figure.subplots().scatter(range(30), range(30), gid="here")
    content = io.BytesIO()
    figure.savefig(content, format="svg")
    root = ElementTree.fromstring(content.getvalue())
    (group,) = [g for g in root.iter(f"{{{SVG}}}g") if g.get("id") == "here"]
    uses = list(group.iter(f"{{{SVG}}}use"))
    assert len(uses) == 30
    assert len({use.get(f"{{{XLINK}}}href") for use in uses}) == 1


def luminance(colour) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.1)."""
    channels = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return float(np.dot(channels, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("budgets", [[1e18], [1e17, 1e21], np.geomspace(1e17, 1e21, 7)])
def test_every_budget_has_a_contrast_of_3_on_white(budgets):
    colours = BudgetColours(list(budgets))
    assert min(1.05 / (luminance(colours(c)) + 0.05) for c in budgets) >= 3
