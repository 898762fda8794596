"""Figures of a fit: each is a table of numbers (kept as CSV) and a function that draws it.

Nothing is fitted here: laws, intervals and answers come from `flops_fit.fit` alone. This file is
light, so that whoever names a figure need not import matplotlib; `draw_all` is in ``draw``.
"""

FIGURES = {  # name -> what it shows, for readers who cannot see it
    "isoflop": "Held-out loss against parameters at each compute budget",
    "optima": "Best parameters, tokens and loss against compute",
    "surface": "Contours of the fitted loss over parameters and tokens",
    "residuals": "Measured loss against fitted, and what is left over against C, N and D",
    "uncertainty": "Parameters of the fitted surface over the resamples, in pairs",
    "sensitivity": "The best size under every other choice of counting, estimator and runs",
    "regret": "Extra compute for the same loss at sizes off the optimum",
    "loss_curves": "Training loss against tokens and FLOPs, and learning rate, every run",
    "throughput": "Speed of every run against its parameters",
}
