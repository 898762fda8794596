"""The questions beside a budget, as options of the verbs that answer them."""

import argparse

NAMES = ("serve",)


def add_questions(parser: argparse.ArgumentParser) -> None:
    """Add to ``parser`` the questions that `flops_fit.fit.questions.ask` takes beside a budget."""
    parser.add_argument(
        "--serve", type=float, metavar="TOKENS", help="also the cheapest model to train and serve"
    )


def questions(args: argparse.Namespace) -> dict[str, float | None]:
    """The values in ``args`` of the options of `add_questions`, by name; None where not asked."""
    return {name: getattr(args, name) for name in NAMES}
