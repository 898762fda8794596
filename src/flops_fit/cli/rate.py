"""``flops-fit rate``: fit a rule for the best learning rate, and draw it."""

import argparse

OTHERS = {"batch": "the batch in tokens", "weight-decay": "the weight decay"}
COLUMNS = {"batch": "batch_tokens", "weight-decay": "weight_decay"}


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
    for name, text in OTHERS.items():
        parser.add_argument(
            f"--{name}-out",
            metavar="FILE",
            help=f"output: the rule for {text}, where it was varied",
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
    """Fit the rules, draw the learning rate's, write them and print them."""
    from flops_fit.errors import FlopsFitError
    from flops_fit.files import write_atomic, write_object
    from flops_fit.fit.joint_rate import fit_jointly, varied
    from flops_fit.fit.learning_rate import fit_learning_rate, read_rates

    runs = read_rates(args.runs)
    names = varied(runs)
    together = "learning_rate" in names and len(names) > 1
    rule = fit_jointly(runs) if together else fit_learning_rate(runs)
    if args.out_dir:
        from flops_fit.plots.learning_rate import draw_rate_figure

        draw_rate_figure(runs, rule, args.out_dir, args.dpi, args.width)
    lines = [f"note: {note}" for note in rule["notes"]]
    written = [f"{args.out}: lr = {_formula(rule)}"]
    for option, text in OTHERS.items():
        name, out = COLUMNS[option], getattr(args, f"{option.replace('-', '_')}_out")
        if out and name not in rule:
            raise FlopsFitError(f"--{option}-out: {args.runs} has no cell with 3 values of {name}")
        if out:
            write_object(out, rule[name])
            written.append(f"{out}: {text} = {_formula(rule[name])}")
        elif name in rule:
            lines.append(f"note: {text} = {_formula(rule[name])}; --{option}-out FILE writes it")
    write_object(args.out, {key: v for key, v in rule.items() if key not in COLUMNS.values()})
    if args.summary:
        write_atomic(args.summary, "\n".join([*lines, *written]) + "\n")
    print("\n".join([*lines, *(f"wrote {line}" for line in written)]))


def _formula(rule: dict) -> str:
    """A rule as text, with the intervals of its powers where they are known."""
    text = f"{rule['value']:.4g}"
    for name, letter in (("params", "N"), ("tokens", "D")):
        if name in rule:
            text += f" x ({letter} / {rule[name]['reference']:.3g})^{rule[name]['power']:.3f}"
        if name in rule.get("interval", {}):
            text += " [{:.3f}, {:.3f}]".format(*rule["interval"][name])
    return text
