"""``flops-fit transfer-check``: whether one learning rate fits all sizes, by a few steps at some."""

import argparse
from typing import TYPE_CHECKING, Any

from flops_fit.cli.arguments import add_places

if TYPE_CHECKING:
    from flops_fit.experiment.plan import Plan
    from flops_fit.plan.transfer import Transfer

COUNT = 4  # sizes that are tried
MOST_PARAMS = 50e6  # of a size that is tried unasked: a CPU steps it in seconds
KINDS = ("svg", "png", "pdf")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``transfer-check`` to argparse."""
    parser.description = (
        "Take a few steps at four sizes, to see whether one learning rate fits them."
    )
    parser.epilog = (
        "example:\n  flops-fit transfer-check --config config/config.yaml --figure transfer.svg"
    )
    add = parser.add_argument
    add("--config", required=True, help="the sweep's config file")
    add(
        "--sizes",
        nargs="+",
        type=float,
        metavar="S",
        help="values of the size parameter (default: four of the sweep)",
    )
    add("--steps", type=int, default=10, metavar="K", help="steps at each size (default: 10)")
    add("--seeds", type=int, default=3, metavar="R", help="seeds that are averaged (default: 3)")
    add("--figure", metavar="FILE", help="output: the figure (.svg, .png or .pdf)")
    add("--json", action="store_true", help="print one JSON object")
    add_places(parser)


def run(args: argparse.Namespace) -> None:
    """Take the steps, print by how much each layer changes, and draw it."""
    import json
    from pathlib import Path

    from flops_fit.errors import FlopsFitError
    from flops_fit.files import write_atomic

    kind = Path(args.figure or "x.svg").suffix.removeprefix(".")
    if kind not in KINDS:
        raise FlopsFitError(
            f"--figure: {args.figure}; allowed: a name that ends in {', '.join(KINDS)}"
        )
    for name, least in (("steps", 1), ("seeds", 1)):
        if getattr(args, name) < least:
            raise FlopsFitError(f"--{name}: {getattr(args, name)}; allowed: {least} or more")
    transfer = _measured(args)
    if args.figure:
        from flops_fit.plots.transfer import transfer_figure

        write_atomic(args.figure, transfer_figure(transfer, kind))
    print(json.dumps(transfer.to_dict(), indent=1) if args.json else _text(transfer))


def _measured(args: argparse.Namespace) -> "Transfer":
    from flops_fit.config.check import PLUGINS, kind_of_sweep
    from flops_fit.config.load import load_config
    from flops_fit.errors import FlopsFitError
    from flops_fit.experiment.places import spec_file
    from flops_fit.experiment.spec import read_spec
    from flops_fit.plan.cache import plan_config, search_paths
    from flops_fit.store.plan_file import keep_plan
    from flops_fit.training.transfer import transfer_of

    paths = search_paths(args.search_path)
    config = load_config(args.config, paths)
    kind = kind_of_sweep(config)
    if kind is not PLUGINS:
        raise FlopsFitError(
            f"{args.config}: {kind.key}: the layers of the model are not known here, only what trains "
            "it elsewhere; allowed: a sweep with model, dataset and optimizer"
        )
    plan = plan_config(config, args.results, paths)
    kept = keep_plan(plan, config["name"], args.results)
    rates = _rates(plan, args.sizes)
    spec = read_spec(spec_file(args.results, plan.experiments[0].experiment_id))
    return transfer_of(spec, rates, args.steps, args.seeds, str(kept))


def _rates(plan: "Plan", asked: list[float] | None) -> dict[Any, float]:
    """The learning rate of each size that is tried, in order: that of its longest run."""
    import numpy as np

    from flops_fit.errors import FlopsFitError

    longest: dict[Any, Any] = {}
    for experiment in sorted(plan.experiments, key=lambda e: (e.count.params, e.num_tokens)):
        longest[experiment.size_param_value] = experiment
    known = {size: experiment.learning_rate for size, experiment in longest.items()}
    if asked:
        sizes = [int(s) if s.is_integer() else s for s in sorted(set(asked))]
        new = [size for size in sizes if size not in known]
        if new and len(set(known.values())) > 1:
            raise FlopsFitError(
                f"--sizes: {new[0]}: the learning rate is a rule, and this is no size of the sweep; "
                f"allowed: {', '.join(map(str, known))}"
            )
        rates = {size: known.get(size, next(iter(known.values()))) for size in sizes}
    else:
        small = [s for s, e in longest.items() if e.count.params_total <= MOST_PARAMS]
        places = np.unique(np.linspace(0, len(small) - 1, COUNT).round().astype(int))
        rates = {small[place]: known[small[place]] for place in places if small}
    if len(rates) < 2:
        raise FlopsFitError(
            f"--sizes: {len(rates)} sizes to try (of the sweep those of at most {MOST_PARAMS:.0e} "
            "parameters); allowed: --sizes with at least two"
        )
    return rates


def _text(transfer: "Transfer") -> str:
    from flops_fit.notation import count_text

    width = max(len(layer.name) for layer in transfer.layers)
    sizes = "".join(f"{size:>10g}" for size in transfer.sizes)
    params = "".join(f"{count_text(count):>10}" for count in transfer.params)
    rates = "".join(f"{rate:>10.3g}" for rate in transfer.rates)
    lines = [
        f"{transfer.size_param:<{width}}{sizes}",
        f"{'parameters':<{width}}{params}",
        f"{'learning rate':<{width}}{rates}",
        f"change of the output (root mean square) after {transfer.steps} steps, {transfer.seeds} seeds:",
    ]
    for layer in transfer.layers:
        if layer.change_power is None:
            lines.append(f"{layer.name:<{width}}  no change at some size")
            continue
        changes = "".join(f"{change:>10.3g}" for change in layer.change)
        error = "" if layer.error is None else f" +- {layer.error:.2f}"
        lines.append(f"{layer.name:<{width}}{changes}   power {layer.change_power:+.2f}{error}")
    return "\n".join([*lines, transfer.sentence()])
