"""Trainers that end without a word: how that is noticed, and how it is said."""

AT_WORK = ".at_work"  # in a run's folder while the main process trains: what is left was killed
KILLED = (
    "the trainer was killed from outside, usually for want of memory, or crashed; start the run again: "
    "it goes on from its last checkpoint; with less memory see resources.micro_batch_items"
)
LOST = (
    "another process of this run was killed from outside, usually for want of memory, or failed (its "
    "own message is then above); start the run again: it goes on from its last checkpoint"
)
