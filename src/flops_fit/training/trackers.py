"""Values for accelerate's trackers during a run; the records remain the reference."""

from accelerate import Accelerator

from flops_fit.training.curve import Curve


class Trackers:
    """The trackers of the run ``name``, started through ``accelerator``.

    ``log_with`` names the tracker; where it is None, nothing is logged. Each attempt at a run
    starts a new log, so a resumed run logs its restored steps too.
    """

    def __init__(self, accelerator: Accelerator, name: str, log_with: str | None):
        self.accelerator, self.on = accelerator, log_with is not None
        self.logged = 0  # steps that were logged
        if self.on:
            accelerator.init_trackers(name)

    def follow(self, curve: Curve) -> None:
        """Log the steps of ``curve`` whose losses were read since the last call."""
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
        """Log the held-out loss and the metrics in ``scores``, if there are, and end the trackers."""
        if not self.on:
            return
        if scores:
            known = {k: value for k, value in scores["metrics"].items() if value is not None}
            self.accelerator.log({"heldout_loss": scores["loss"], **known}, step=self.logged)
        self.accelerator.end_training()
