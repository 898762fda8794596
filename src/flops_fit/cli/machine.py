"""The devices, hours and money that a budget may be given as, in place of FLOPs."""

import argparse
from typing import TYPE_CHECKING

from flops_fit.cli.arguments import add_results

if TYPE_CHECKING:
    from flops_fit.fit.purchase import Machine
    from flops_fit.plan.price import Rate


def add_amount(group: "argparse._MutuallyExclusiveGroup") -> None:
    """Add to ``group`` the options that give a budget as hours or as money."""
    group.add_argument("--hours", type=float, metavar="H", help="hours of --devices, for C")
    group.add_argument("--money", type=float, metavar="M", help="money for --devices, for C")


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Add to ``parser`` the options that describe the devices for ``--hours`` and ``--money``."""
    add = parser.add_argument
    add("--devices", type=int, metavar="n", help="number of devices (default: 1)")
    add("--device", help="such as H100 (default: as measured)")
    add("--flops-per-second", type=float, metavar="RATE", help="FLOP/s of one device in training")
    add("--per-hour", type=float, metavar="PRICE", help="price of one device per hour")
    add_results(parser)


def machine_of(args: argparse.Namespace) -> "tuple[Machine, float] | None":
    """The devices and the hours that ``args`` ask for; None where they ask for neither.

    Raises `FlopsFitError` where no rate of the devices is known, and for options without hours or
    money.
    """
    from flops_fit.errors import FlopsFitError
    from flops_fit.fit.purchase import Machine

    if args.hours is None and args.money is None:
        for name in ("devices", "device", "flops_per_second", "per_hour"):
            if getattr(args, name) is not None:
                option = name.replace("_", "-")
                raise FlopsFitError(f"--{option}: allowed: with --hours or --money")
        return None
    rate = _rate(args)
    devices = 1 if args.devices is None else args.devices
    machine = Machine(devices, rate.flops_per_second, rate.source, args.per_hour)
    hours = machine.hours(args.money) if args.hours is None else args.hours
    machine.flops(hours)  # refuses numbers that are not positive
    return machine, hours


def _rate(args: argparse.Namespace) -> "Rate":
    """The rate of one device: stated, a share of its peak, or measured by ``flops-fit plan``."""
    from dataclasses import replace

    from flops_fit.errors import FlopsFitError
    from flops_fit.experiment.places import measured_file
    from flops_fit.plan.price import DEVICES, rate_for

    stated = {"device": args.device, "flops_per_second": args.flops_per_second}
    pricing = stated | {"step_seconds": None}
    measured = [kind for kind in DEVICES if measured_file(args.results, kind).exists()]
    if not (args.device or args.flops_per_second is not None or measured):
        raise FlopsFitError(
            f"{'--hours' if args.money is None else '--money'}: needs the speed of a device; allowed: "
            "with --device NAME, --flops-per-second RATE, or --results DIR where flops-fit plan "
            "--measure has measured it"
        )
    rate = rate_for(pricing, int("gpu" in measured), "bf16", args.results)
    return rate if args.flops_per_second is None else replace(rate, source="as stated")
