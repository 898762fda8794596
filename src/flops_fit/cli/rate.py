"""``flops-fit rate``: fit the best learning rate as a rule, and draw it."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Fit the best learning rate as a rule of N and D, and draw it."
    parser.epilog = (
        "example:\n  flops-fit rate --runs results/lr/results.csv "
        "--out results/lr/learning_rate.json"
    )
    parser.add_argument("--runs", required=True, help="results.csv of a learning-rate sweep")
    parser.add_argument("--out", required=True, help="the rule file that a config can name")
    parser.add_argument("--summary", help="also write the rule as a line of text")
    parser.add_argument("--out-dir", help="folder for the figure")
    parser.add_argument("--dpi", type=int, default=150, help="of the PNG file (default: 150)")
    parser.add_argument("--width", type=float, default=6.4, help="in inches (default: 6.4)")


def run(args: argparse.Namespace) -> None:
    from flops_fit.files import write_atomic, write_json
    from flops_fit.fit.learning_rate import fit_learning_rate, read_rates

    runs = read_rates(args.runs)
    rule = fit_learning_rate(runs)
    if args.out_dir:
        from flops_fit.plots.learning_rate import draw_rate_figure

        draw_rate_figure(runs, rule, args.out_dir, args.dpi, args.width)
    write_json(args.out, rule)
    powers = "".join(
        f" x ({letter} / {rule[name]['reference']:.3g})^{rule[name]['power']:.3f}"
        for name, letter in (("params", "N"), ("tokens", "D"))
        if name in rule
    )
    formula = f"lr = {rule['value']:.4g}{powers}"
    notes = [f"note: {note}" for note in rule["notes"]]
    if args.summary:
        write_atomic(args.summary, "\n".join([*notes, f"{args.out}: {formula}"]) + "\n")
    print("\n".join([*notes, f"wrote {args.out}: {formula}"]))
