"""The figure of a transfer check: activations and their changes against the size of the model."""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flops_fit.plan.transfer import Layer, Transfer
from flops_fit.plots.hover import name_each
from flops_fit.plots.style import SEQUENCE, STYLE, drawn_as, log_axis, spread

GAP = 0.07  # between the labels of two layers, as a share of the panel's height


def transfer_figure(
    transfer: Transfer, kind: str = "svg", width: float = 6.4, dpi: int = 150
) -> bytes:
    """The figure of ``transfer`` as the bytes of a file of ``kind``, svg, png or pdf.

    ``width`` is in inches, ``dpi`` the resolution of a PNG file.
    """
    layers = [layer for layer in transfer.layers if layer.change]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, 0.5 * width))
        left, right = figure.subplots(1, 2, sharex=True)
        for place, layer in enumerate(layers):
            colour = SEQUENCE(place / max(len(layers) - 1, 1))
            line = "-" if layer.moves or layer.uneven else ":"
            for ax, values in ((left, layer.activation), (right, layer.change)):
                ax.plot(transfer.sizes, values, linestyle=line, color=colour)
                marks = ax.scatter(transfer.sizes, values, s=12, color=colour, zorder=3)
                titles = [
                    f"{layer.name}, {transfer.size_param} {size:g}: {value:.3g}"
                    for size, value in zip(transfer.sizes, values, strict=True)
                ]
                name_each(marks, titles, [])
        left.set_title(f"output after {transfer.steps} steps")
        right.set_title("its change")
        left.set_ylabel("root mean square")
        for ax in (left, right):
            ax.set_xlabel(transfer.size_param)
            ax.set(xscale="log", yscale="log")
            log_axis(ax.yaxis, lambda value: f"{value:g}")
            log_axis(ax.xaxis, lambda value: f"{value:g}")
            ax.set_xticks(transfer.sizes)
        _label(right, layers)
        return drawn_as(figure, kind, dpi)


def _label(ax: Axes, layers: list[Layer]) -> None:
    """Name every layer at the right end of its line, with its power of the size."""
    to_share = ax.transScale + ax.transLimits
    ends = np.array([to_share.transform((1.0, layer.change[-1]))[1] for layer in layers])
    for place, (layer, height) in enumerate(zip(layers, spread(ends, GAP), strict=True)):
        ax.text(
            1.03,
            height,
            f"{layer.name}  {layer.change_power:+.2f}",
            transform=ax.transAxes,
            va="center",
            fontsize=7.5,
            weight="bold" if layer.moves or layer.uneven else "normal",
            color=SEQUENCE(place / max(len(layers) - 1, 1)),
        )
