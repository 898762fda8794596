"""The commands ``fit`` and ``predict``; heavy imports wait until one of them runs."""

import argparse
import os

FIT_EXAMPLE = "example: flops-fit fit --runs runs.csv --out fit.json"


def _delta(text: str) -> float | str:
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: auto or a number") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``fit`` to argparse."""
    parser.description = "Fit a scaling law, with intervals, to a table of finished runs."
    parser.epilog = FIT_EXAMPLE
    add = parser.add_argument
    add(
        "--runs",
        required=True,
        help="params, tokens and loss of each run, under these or other projects' names: CSV, JSON, "
        "JSON Lines, Parquet, or a folder with a file for each run",
    )
    add("--out", required=True, help="where to write the fit (JSON)")
    add(
        "--params",
        default="params",
        choices=("params", "params_nonembedding", "params_total"),
        help="which count is N: matmul parameters with the head, without embeddings and head, all",
    )
    _add_reading(parser)
    add("--curves", help="loss curves (CSV run_id,tokens,flops,loss, or results.json): envelope")
    add(
        "--delta",
        type=_delta,
        default="auto",
        metavar="auto|NUMBER",
        help="Huber threshold on ln L; auto: 1.345 robust scales (1e-3: Hoffmann et al.)",
    )
    add("--bootstrap", type=int, default=1000, metavar="R", help="resamples; 0: no intervals")
    add("--seed", type=int, default=0, help="seed of the resamples")
    add(
        "--method",
        default="auto",
        choices=("auto", "surface", "tied", "fixed_e", "isoflop", "envelope"),
        help="headline estimator; auto: by the held-out test",
    )
    add(
        "--exclude",
        choices=("auto", "none"),
        help="auto leaves out runs beyond 6 robust scales (at most 10%%), none fits all; default "
        "auto, but none where the table marks its own outliers or --delta is a number",
    )
    add("--resample", choices=("runs", "groups", "wild"), help="unit of the resampling")
    add("--level", type=float, default=0.90, help="of the intervals")
    add("--fixed-e", type=float, metavar="LOSS", help="also fit with E held at this loss")
    add("--loss-unit", metavar="UNIT", help="written beside every loss; default: nats per token")
    add("--curve", choices=("parabola", "akima"), default="parabola", help="of IsoFLOP minima")
    add(
        "--window",
        type=float,
        metavar="FACTOR",
        help="fit parabolas only within this factor in N of the lowest run",
    )


def _add_reading(parser: argparse.ArgumentParser) -> None:
    """The options on how the table is read, named as the fields of `flops_fit.fit.Reading`."""
    add = parser.add_argument_group("reading the table").add_argument
    add(
        "--loss",
        "--loss-column",
        dest="loss_column",
        metavar="COLUMN",
        help="the column that is the loss; default: a held-out loss rather than a training loss",
    )
    add(
        "--where",
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="fit only the rows with this value; repeat it for other values or columns",
    )
    add(
        "--last-per",
        metavar="COLUMNS",
        help="of the rows that share these columns (run_id) only the one of the most tokens is a run",
    )
    add(
        "--best-per",
        metavar="COLUMNS",
        help="of the rows that share these columns (params,tokens) only the lowest loss is a run",
    )
    add(
        "--max-epochs",
        type=float,
        metavar="E",
        help="leave out runs that read their data more often",
    )
    add(
        "--cost-as-given", action="store_true", help="believe FLOPs however far from 6 N D they are"
    )


def run(args: argparse.Namespace) -> None:
    """Read runs, fit, write FIT.json, print one line."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from dataclasses import fields

    from flops_fit.files import write_json
    from flops_fit.fit.core import fit_runs
    from flops_fit.fit.curves import read_curves
    from flops_fit.fit.rows import Reading
    from flops_fit.fit.runs import read_runs

    reading = Reading(**{field.name: getattr(args, field.name) for field in fields(Reading)})
    table = read_runs(args.runs, args.params, reading)
    # Curves of decaying rates lie too high before their end: a table's own are used if asked for.
    own = args.runs if args.method == "envelope" and str(args.runs).endswith(".json") else None
    source = args.curves or own
    fit = fit_runs(
        table,
        read_curves(source) if source else None,
        delta=args.delta,
        bootstrap=args.bootstrap,
        seed=args.seed,
        method=args.method,
        exclude=args.exclude,
        resample=args.resample,
        level=args.level,
        fixed_e=args.fixed_e,
        curve=args.curve,
        window=args.window,
        loss_unit=args.loss_unit,
    )
    write_json(args.out, fit)
    for note in fit["data"]["notes"]:
        print(f"note: {note}")
    headline, left = fit["headline"], fit["excluded"]["count"]
    exponent = f"a = {headline['a']:.3f}"
    key = "a" if headline["method"] == "surface" else f"{headline['method']}.a"
    if key in fit["ci"]:
        low, high = fit["ci"][key]
        exponent += f" [{low:.3f}, {high:.3f}]"
    out = f", {left} left out" if left else ""
    print(
        f"wrote {args.out}: {exponent} by {headline['method']} ({fit['status']}) from "
        f"{fit['data']['n_runs']} runs{out}"
    )
