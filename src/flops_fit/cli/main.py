"""``flops-fit VERB``: every step of the workflow as a command, in the order of the work.

Nothing heavy is imported before a verb runs, so ``--help`` is fast.
"""

import argparse
import sys
from importlib import import_module

from flops_fit import __version__
from flops_fit.cli.arguments import add_verb
from flops_fit.errors import FlopsFitError

VERBS = (
    "plan",
    "simulate",
    "prepare",
    "check",
    "train",
    "progress",
    "collect",
    "rate",
    "fit",
    "predict",
    "plot",
    "report",
    "next",
    "confirm",
    "confirmed",
    "compare",
    "runs",
    "doctor",
)


def main(arguments: list[str] | None = None) -> int:
    """Run one verb and return the exit status; ``arguments`` default to those of the process.

    Bad input prints one message on standard error and returns 2.
    """
    parsed = make_parser().parse_args(arguments)
    try:
        return parsed.run(parsed) or 0
    except FlopsFitError as error:
        print(f"flops-fit: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, such as head, has ended
        sys.stderr.close()
    except OSError as error:  # a file or folder that an option names
        name, reason = error.filename2 or error.filename or "a file", error.strerror or error
        print(f"flops-fit: error: {name}: cannot be read or written ({reason})", file=sys.stderr)
        return 2
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="flops-fit",
        description="From a compute budget to the right model size and amount of data.",
        epilog="Verbs are listed in the order of the work; `flops-fit VERB --help` shows an example.",
    )
    parser.add_argument("--version", action="version", version=f"flops-fit {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name in VERBS:
        verb = import_module(f"flops_fit.cli.{name}")
        add_verb(verbs, name, verb.add_arguments, getattr(verb, "run", None))
    return parser
