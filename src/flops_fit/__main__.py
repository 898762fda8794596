"""``python -m flops_fit``: the same as ``flops-fit``."""

from flops_fit.cli.main import command

command()
