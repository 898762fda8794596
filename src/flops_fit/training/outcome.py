"""The end of a run: completed with its held-out loss, or diverged with a reason."""

import math

from flops_fit.constants import Status
from flops_fit.training.curve import Curve


def status_of(
    curve: Curve, bad_step: int | None, scores: dict | None, bytes_per_token: float | None
) -> dict:
    """Return the status, the reason and the held-out loss; a run with a non-finite loss diverged.

    ``curve`` is the training curve, ``bad_step`` the index of the first step whose loss is not
    finite (None: there is none), and ``scores`` the result of `evaluate` (None after a bad step),
    whose metrics are returned where there are any.
    ``bytes_per_token``, where known, gives the loss in bits per byte.
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
            **({"metrics": scores["metrics"]} if scores["metrics"] else {}),
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
