"""Random tasks: a model with its data, a loss and an optimiser, as people write them."""

import numpy as np
from items import contrastive, images, mappings, own_loss, stateful, vectors
from losses import with_loss
from optimizers import with_optimizer
from parts import Parts, pick
from sequences import lengths, masked, tokens
from spoilt import with_data

TASKS = (
    *(vectors, vectors, vectors),
    images,
    *(tokens, tokens, tokens),
    *(masked, masked),
    *(lengths, lengths),
    mappings,
    contrastive,
    own_loss,
    stateful,
)


def task(rng: np.random.Generator) -> Parts:
    """A random task with its loss, its data as they may be, and an optimiser."""
    made = pick(rng, *TASKS)(rng)
    return with_optimizer(rng, with_data(rng, with_loss(rng, made)))
