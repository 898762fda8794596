"""Random losses, some of which no law can take."""

from dataclasses import replace

import numpy as np
from parts import Parts, pick

LOSSES = {
    "classes": {
        "cross entropy": "F.cross_entropy({y}.flatten(0, -2), targets.flatten())",
        "smoothed": "F.cross_entropy({y}.flatten(0, -2), targets.flatten(), label_smoothing=0.1)",
        "nll": "F.nll_loss({y}.flatten(0, -2).log_softmax(-1), targets.flatten())",
        "averaged": "F.cross_entropy({y}.flatten(0, -2), targets.flatten(), reduction='none').mean()",
        "focal": "((1 - (p := (-F.cross_entropy({y}.flatten(0, -2), targets.flatten(), "
        "reduction='none')).exp())) ** 2 * -p.log()).mean() + 0.01",
        "summed": "F.cross_entropy({y}.flatten(0, -2), targets.flatten(), reduction='sum')",
        "negative": "-F.cross_entropy({y}.flatten(0, -2), targets.flatten())",
        "not reduced": "F.cross_entropy({y}.flatten(0, -2), targets.flatten(), reduction='none')",
    },
    "floats": {
        "mse": "F.mse_loss({y}, targets) + 0.1",
        "mae": "F.l1_loss({y}, targets)",
        "bce": "F.binary_cross_entropy_with_logits({y}, targets)",
        "huber": "F.smooth_l1_loss({y}, targets) + 1",
        "summed": "F.mse_loss({y}, targets, reduction='sum')",
        "negative": "F.mse_loss({y}, targets) - 100",
        "not reduced": "(({y} - targets) ** 2).mean(-1)",
    },
}
MUST_REFUSE = ("summed", "negative", "not reduced")


def with_loss(rng: np.random.Generator, parts: Parts) -> Parts:
    """The same with a loss drawn for its targets, now and then one that no law can take."""
    if parts.loss is not None or parts.targets == "none":
        return parts
    simple = parts.outputs == "outputs" and parts.targets == "classes"
    if simple and rng.random() < (0.9 if parts.name in ("masked", "lengths") else 0.4):
        return parts
    losses = LOSSES[parts.targets]
    good = [name for name in losses if name not in MUST_REFUSE]
    name = pick(rng, *(good if rng.random() < 0.85 else MUST_REFUSE))
    text = losses[name].format(y=parts.outputs)
    refuse = f"a loss that is {name}" if name in MUST_REFUSE else parts.must_refuse
    return replace(
        parts,
        loss=f"\ndef loss(outputs, targets):\n    return {text}\n",
        must_refuse=refuse,
        name=f"{parts.name}, {name}",
    )
