"""``flops-fit rate``: fit a rule for the best learning rate, and draw it."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``rate`` to argparse."""
    parser.description = "Fit the best learning rate as a function of N and D, and draw it."
    parser.epilog = (
        "example:\n  flops-fit rate --runs results/lr/results.csv "
        "--out results/lr/learning_rate.json"
    )
    parser.add_argument("--runs", required=True, help="results.csv of a learning-rate sweep")
    parser.add_argument(
        "--out", required=True, help="output: the rule, a file that a config can name"
    )
    parser.add_argument("--summary", help="output: the rule as text")
    parser.add_argument("--out-dir", help="output: folder of the figure")
    parser.add_argument(
        "--dpi", type=int, default=150, help="resolution of the PNG file (default: 150)"
    )
    parser.add_argument(
        "--width", type=float, default=6.4, help="width of the figure in inches (default: 6.4)"
    )


def run(args: argparse.Namespace) -> None:
    """Fit the rule, draw it, write it and print it."""
    from flops_fit.files import write_atomic, write_object
    from flops_fit.fit.learning_rate import fit_learning_rate, read_rates

    runs = read_rates(args.runs)
    rule = fit_learning_rate(runs)
    if args.out_dir:
        from flops_fit.plots.learning_rate import draw_rate_figure

        draw_rate_figure(runs, rule, args.out_dir, args.dpi, args.width)
    write_object(args.out, rule)
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
