"""Numbers that several rooms share: figures from the literature, and what is answered by default."""

MOST_EPOCHS = 4  # beyond, repeated data are worth less (Muennighoff et al. 2023, arXiv 2305.16264)
PUBLISHED_RATIO = 20  # tokens per parameter, Hoffmann et al. 2022 (arXiv 2203.15556)
ANSWER_FACTORS = (1, 3, 10)  # times the largest budget: what is answered for unless asked otherwise
