"""How a run ended: completed with its held-out loss, or diverged with the reason."""

import math

from flops_fit.constants import Status
from flops_fit.training.curve import Curve


def status_of(
    curve: Curve, bad_step: int | None, scores: dict | None, bytes_per_token: float | None
) -> dict:
    """Status, reason and held-out loss: a loss that is not finite makes a run diverged.

    ``bad_step`` is the index of the first step whose loss is not finite, ``scores`` what
    `evaluate` returned (None after a bad step).
    """
    if scores is not None and math.isfinite(scores["loss"]):
        bits = scores["loss"] / math.log(2) / bytes_per_token if bytes_per_token else None
        return {
            "status": Status.COMPLETED,
            "reason": "",
            "final_loss": scores["loss"],
            "final_loss_se": scores["loss_se"],
            "heldout_tokens": scores["tokens"],
            "bits_per_byte": bits,
        }
    if bad_step is None:
        reason = "the held-out loss is not finite"
    else:
        last = f"{curve.loss[bad_step - 1]:.4g}" if bad_step else "none"
        reason = f"the loss of step {bad_step + 1} is not finite; last good loss: {last}"
    return {
        "status": Status.DIVERGED,
        "reason": reason,
        "final_loss": None,
        "final_loss_se": None,
        "heldout_tokens": 0,
        "bits_per_byte": None,
    }
