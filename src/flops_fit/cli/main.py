"""``flops-fit VERB``: every step of the workflow as a command, in the order of the work.

Nothing heavy is imported before a verb runs, so ``--help`` is fast.
"""

import argparse
import contextlib
import difflib
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, NoReturn

from flops_fit import __version__
from flops_fit.cli.arguments import add_verb
from flops_fit.errors import FlopsFitError
from flops_fit.process import collect_rarely, leave

VERBS = (
    "plan",
    "simulate",
    "sweep",
    "prepare",
    "check",
    "transfer-check",
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
    "export",
    "import",
    "runs",
    "doctor",
)
STEPS = ("prepare", "check", "train", "collect", "rate", "confirmed")  # the workflow calls them
EXTRAS = {"torch": "torch accelerate", "accelerate": "torch accelerate", "snakemake": "snakemake"}


def main(arguments: list[str] | None = None) -> int:
    """Run one verb and return the exit status; ``arguments`` default to those of the process.

    Without arguments it prints the verbs. Bad input prints one message on standard error and returns
    2.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        _check_verb(arguments)
        parsed = make_parser().parse_args(arguments or ["--help"])
        with contextlib.ExitStack() as until_end:
            if parsed.quiet:
                nowhere = until_end.enter_context(open(os.devnull, "w"))
                until_end.enter_context(contextlib.redirect_stdout(nowhere))
            return parsed.run(parsed) or 0
    except FlopsFitError as error:
        print(f"flops-fit: error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        print(
            f"flops-fit: error: {arguments[0]} needs the package {error.name}, which is not installed; "
            f"install it with: pip install {EXTRAS[error.name]}",
            file=sys.stderr,
        )
        return 2
    except BrokenPipeError:  # the reader of our output, such as head, has ended
        sys.stderr.close()
    except OSError as error:  # a file or folder that an option names
        name, reason = error.filename2 or error.filename or "a file", error.strerror or error
        print(f"flops-fit: error: {name}: cannot be read or written ({reason})", file=sys.stderr)
        return 2
    return 0


def command() -> NoReturn:
    """Be the process of `main`: start and end without needless work."""
    collect_rarely()
    leave(main())


def _check_verb(arguments: list[str]) -> None:
    """Refuse an unknown verb with the one that is most like it; argparse would list all."""
    verb = next((word for word in arguments if word not in ("-q", "--quiet")), "-")
    if verb.startswith("-") or verb in VERBS:
        return
    close = difflib.get_close_matches(verb, VERBS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"allowed: {', '.join(VERBS)}"
    raise FlopsFitError(f"{verb}: no such verb; {hint}")


def make_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="flops-fit",
        usage="flops-fit [--version] [--quiet] VERB ...",
        description="From a compute budget to the right model size and amount of data.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"flops-fit {__version__}")
    parser.add_argument("-q", "--quiet", action="store_true", help="print warnings and errors only")
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=("bash", "zsh", "tcsh"),
        help="print what makes this shell complete verbs, options and files",
    )
    verbs = parser.add_subparsers(
        prog="flops-fit", metavar="VERB", required=True, help=argparse.SUPPRESS
    )
    for name in VERBS:
        verb = import_module(f"flops_fit.cli.{name.replace('-', '_')}")
        add_verb(verbs, name, verb.add_arguments, getattr(verb, "run", None))
    parser.epilog = _verbs_in_groups(verbs.choices)
    return parser


def _verbs_in_groups(verbs: Mapping[str, argparse.ArgumentParser]) -> str:
    groups = {
        "verbs, in the order of the work:": [name for name in VERBS if name not in STEPS],
        "steps that the workflow runs for you:": STEPS,
    }
    lines = []
    for title, names in groups.items():
        lines.append(title)
        for name in names:
            first, *rest = textwrap.wrap(str(verbs[name].description), 62)
            lines += [f"  {name:<16}{first}", *(" " * 18 + line for line in rest)]
        lines.append("")
    return "\n".join(
        [*lines, "`flops-fit VERB --help` shows the options of a verb and an example."]
    )


class _PrintCompletion(argparse.Action):
    """Print what makes a shell complete verbs, options and files, and end."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        try:
            import shtab
        except ModuleNotFoundError:
            parser.error(f"{option_string} needs the package shtab: pip install shtab")
        for verb in (parser, *_all_verbs(parser)):
            for action in verb._actions:
                if isinstance(action, argparse._SubParsersAction):
                    action.help = "verbs"  # shtab passes over what is hidden from the help
                elif action.nargs != 0 and action.type is None and not action.choices:
                    action.complete = shtab.FILE  # type: ignore[attr-defined]
        print(shtab.complete(parser, values))
        parser.exit()


def _all_verbs(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield verb
                yield from _all_verbs(verb)
