"""Figures from the literature that several rooms hold sweeps against."""

MOST_EPOCHS = 4  # beyond, repeated data are worth less (Muennighoff et al. 2023, arXiv 2305.16264)
PUBLISHED_RATIO = 20  # tokens per parameter, Hoffmann et al. 2022 (arXiv 2203.15556)
