"""Cross-entropy for language models and classifiers."""

from torch import Tensor, nn

IGNORE_INDEX = -100


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood, in nats, over the targets that are not ``ignore_index``.

    ``outputs`` are logits of shape (..., classes), ``targets`` class indices of shape (...): a
    language model's (B, T, V) and (B, T), or a classifier's (B, V) and (B,). NaN where every
    target is ignored.
    """
    logits = outputs.flatten(0, -2)
    return nn.functional.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE_INDEX)


cross_entropy.ignore_index = IGNORE_INDEX  # tells the trainer which targets are no tokens
