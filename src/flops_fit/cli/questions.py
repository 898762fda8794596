"""The questions beside a budget, as options of the verbs that answer them."""

import argparse

NAMES = {
    "serve": "also the cheapest model to train and serve",
    "unique": "also how often to read so few unique tokens",
}


def add_questions(parser: argparse.ArgumentParser) -> None:
    """Add to ``parser`` the questions that `flops_fit.fit.ask` takes beside a budget."""
    for name, text in NAMES.items():
        parser.add_argument(f"--{name}", type=float, metavar="TOKENS", help=text)


def questions(args: argparse.Namespace) -> dict[str, float | None]:
    """The values in ``args`` of the options of `add_questions`, by name; None where not asked."""
    return {name: getattr(args, name) for name in NAMES}
