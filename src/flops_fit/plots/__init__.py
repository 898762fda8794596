"""Figures of a fit: each is a table of numbers (kept as CSV) and a function that draws it.

Nothing is fitted here: laws, intervals and answers come from `flops_fit.fit` alone. This file is
light, so that whoever names a figure need not import matplotlib; `draw_all` is in ``draw``.
"""

FIGURES = {  # name -> what it shows, for readers who cannot see it
    "isoflop": "Held-out loss against parameters at each compute budget",
    "optima": "Best parameters, tokens and loss against compute",
    "loss_curves": "Training loss and learning rate against tokens, every run",
    "surface": "Contours of the fitted loss over parameters and tokens",
}
