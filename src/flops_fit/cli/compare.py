"""``flops-fit compare``: the run of a confirmation against what was predicted for it."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``compare`` to argparse."""
    parser.description = "Compare the run of a confirmation with what was predicted for it."
    parser.epilog = (
        "example:\n  flops-fit compare --records results/demo-confirm-2.43e12/results.json \\\n"
        "    --predicted '{...}' --name demo-confirm-2.43e12 --out confirmation.json "
        "--table confirmation.md"
    )
    add = parser.add_argument
    add("--records", required=True, help="results.json of the confirmation's sweep")
    add("--predicted", required=True, help="the config's confirm, as JSON")
    add("--name", required=True, help="name of the confirmation's sweep")
    add("--out", required=True, help="the outcome (JSON)")
    add("--table", required=True, help="the outcome as Markdown")


def run(args: argparse.Namespace) -> None:
    """Read the one record, write both files, print the outcome."""
    import json
    from pathlib import Path

    from flops_fit.config.complete import check_section
    from flops_fit.errors import FlopsFitError
    from flops_fit.files import write_atomic, write_json
    from flops_fit.rounds.confirm import compare, confirmation_table, outcome_words
    from flops_fit.rounds.ledger import enter
    from flops_fit.store.collect import read_results

    records = read_results(args.records)
    if len(records) != 1:
        raise FlopsFitError(f"{args.records}: {len(records)} runs; a confirmation is one run")
    try:
        predicted = json.loads(args.predicted)
    except ValueError as error:
        raise FlopsFitError(f"--predicted: not valid JSON ({error})") from None
    check_section("confirm", predicted)
    if predicted is None:
        raise FlopsFitError("--predicted: null; allowed: the config's confirm")
    told = compare(records[0], predicted, args.name)
    write_json(args.out, told)
    enter(Path(args.out).parent.parent, told)
    write_atomic(args.table, confirmation_table(told))
    print(f"wrote {args.out}: {outcome_words(told)}")
