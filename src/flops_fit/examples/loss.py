"""Cross-entropy for language models and classifiers."""

from torch import Tensor, nn

IGNORE_INDEX = -100


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean negative log-likelihood in nats over the targets that are not ``ignore_index``.

    ``outputs`` are logits of shape (..., classes), and ``targets`` are class indices of shape
    (...): (B, T, V) and (B, T) for a language model, or (B, V) and (B,) for a classifier. The
    result is NaN where all targets are ignored.
    """
    logits = outputs.flatten(0, -2)
    return nn.functional.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE_INDEX)


cross_entropy.ignore_index = IGNORE_INDEX  # the trainer does not count such targets as tokens
