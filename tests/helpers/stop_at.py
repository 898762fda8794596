"""A stop signal at a chosen step, without a signal."""


class StopAt:
    """Asks to stop when the loop looks for the ``count``-th time, as a signal would."""

    signal = "SIGTERM"

    def __init__(self, count: int):
        self.left = count

    def __bool__(self) -> bool:
        self.left -= 1
        return self.left < 0
