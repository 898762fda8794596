"""``flops-fit confirmed``: a confirmation run against its prediction."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``confirmed`` to argparse."""
    parser.description = "Compare a confirmation run with its prediction."
    parser.epilog = (
        "example:\n  flops-fit confirmed --records results/demo-confirm-2.43e12/results.json \\\n"
        "    --predicted '{...}' --name demo-confirm-2.43e12 --out confirmation.json "
        "--table confirmation.md"
    )
    add = parser.add_argument
    add("--records", required=True, help="results.json of the confirmation sweep")
    add("--predicted", required=True, help="the section confirm of its config, as JSON")
    add("--name", required=True, help="name of the confirmation sweep")
    add("--out", required=True, help="output: the comparison as JSON")
    add("--table", required=True, help="output: the comparison as Markdown")


def run(args: argparse.Namespace) -> None:
    """Read the record of the run, write both files, print the outcome."""
    import json
    from pathlib import Path

    from flops_fit.config.complete import check_section
    from flops_fit.errors import FlopsFitError
    from flops_fit.files import write_atomic, write_object
    from flops_fit.rounds.confirm import compare, confirmation_table, outcome_text
    from flops_fit.rounds.ledger import enter
    from flops_fit.store.collect import read_results

    records = read_results(args.records)
    if len(records) != 1:
        raise FlopsFitError(f"{args.records}: {len(records)} runs; allowed: exactly one run")
    try:
        predicted = json.loads(args.predicted)
    except ValueError as error:
        raise FlopsFitError(f"--predicted: not valid JSON ({error})") from None
    check_section("confirm", predicted)
    if predicted is None:
        raise FlopsFitError("--predicted: null; allowed: the section confirm of the config")
    outcome = compare(records[0], predicted, args.name)
    write_object(args.out, outcome)
    enter(Path(args.out).parent.parent, outcome)
    write_atomic(args.table, confirmation_table(outcome))
    print(f"wrote {args.out}: {outcome_text(outcome)}")
