"""Trainers that end without a message: the file that shows it, and the message to print instead."""

AT_WORK = ".at_work"  # file in a run's folder during training; a trainer that is killed leaves it
KILLED = (
    "the trainer was killed, usually because it used too much memory, or it crashed; start the run "
    "again: it continues from its last checkpoint; resources.micro_batch_items reduces its memory"
)
LOST = (
    "another process of this run was killed, usually because it used too much memory, or it failed "
    "(then its message is above); start the run again: it continues from its last checkpoint"
)
