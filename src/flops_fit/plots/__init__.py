"""Figures of a fit: each is a table of numbers (written as CSV) and a function that draws it.

Nothing is fitted here: laws, intervals and answers come from `flops_fit.fit`. This file does not
import matplotlib, so that the names of the figures are available quickly; see ``draw``.
"""

FIGURES = {  # name -> description, for readers who cannot see the figure
    "isoflop": "Held-out loss against parameters at each compute budget",
    "optima": "Best parameters, tokens and loss against compute",
    "surface": "Contours of the fitted loss over parameters and tokens",
    "residuals": "Measured loss against fitted loss, and residuals against C, N and D",
    "uncertainty": "Pairs of parameters of the fitted surface, one point per resample",
    "sensitivity": "The best size under other choices of counting, estimator and runs",
    "regret": "Extra compute for the same loss at other sizes than the best",
    "loss_curves": "Training loss of every run against tokens and FLOPs, and its learning rate",
    "throughput": "Speed of every run against its number of parameters",
}
ON_REQUEST = {  # not among those of a report, whose parts they repeat
    "hero": "Loss curves, best parameters and tokens against compute, and the answer in a sentence"
}
