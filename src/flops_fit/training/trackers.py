"""Values for accelerate's trackers while a run goes on; our own JSON stays the truth."""

from accelerate import Accelerator

from flops_fit.training.curve import Curve


class Trackers:
    """The trackers of one run; without ``log_with`` there are none, and nothing happens.

    Each attempt at a run begins its own log, so one that is resumed logs its restored steps too.
    """

    def __init__(self, accelerator: Accelerator, name: str, log_with: str | None):
        self.accelerator, self.on = accelerator, log_with is not None
        self.logged = 0  # steps
        if self.on:
            accelerator.init_trackers(name)

    def follow(self, curve: Curve) -> None:
        """Log the steps whose losses have been read back since the last call."""
        if not self.on:
            return
        for step in range(self.logged, len(curve.loss)):
            values = {
                "loss": curve.loss[step],
                "tokens": curve.tokens[step],
                "learning_rate": curve.learning_rate[step],
            }
            self.accelerator.log(values, step=step + 1)
        self.logged = len(curve.loss)

    def close(self, scores: dict | None = None) -> None:
        """Log the held-out loss, if there is one, and end."""
        if not self.on:
            return
        if scores:
            self.accelerator.log({"heldout_loss": scores["loss"]}, step=self.logged)
        self.accelerator.end_training()
