"""What hours of some devices, or an amount of money, buy: C, and how much another day adds."""

from dataclasses import dataclass

from flops_fit.errors import FlopsFitError
from flops_fit.fit.answer import Purchase
from flops_fit.fit.numbers import positive_number
from flops_fit.fit.prediction import optimum_at
from flops_fit.fit.result import Fit
from flops_fit.fit.verdict import unanswerable

DAY = 24.0  # hours


@dataclass(frozen=True)
class Machine:
    """Devices that train together at ``flops_per_second`` each; ``source`` says where that is from.

    ``devices``: their number; ``per_hour``: the price of one for an hour, None where not known.
    """

    devices: int
    flops_per_second: float
    source: str
    per_hour: float | None = None

    def flops(self, hours: float) -> float:
        """The FLOPs that all devices do in so many ``hours``.

        Raises `FlopsFitError` for a number that is not positive.
        """
        seconds = 3600 * positive_number("hours", hours)
        devices = positive_number("devices", self.devices)
        return seconds * devices * positive_number("flops_per_second", self.flops_per_second)

    def money(self, hours: float) -> float | None:
        """The price of so many ``hours``; None where it is not known."""
        return None if self.per_hour is None else hours * self.devices * self.per_hour

    def hours(self, money: float) -> float:
        """The hours that this much ``money`` pays for.

        Raises `FlopsFitError` where no price is known, and for numbers that are not positive.
        """
        if self.per_hour is None:
            raise FlopsFitError(
                "money: needs the price of a device; allowed: with --per-hour PRICE"
            )
        price = positive_number("per_hour", self.per_hour)
        return positive_number("money", money) / (price * self.devices)


def purchase_at(fit: Fit, machine: Machine, hours: float) -> Purchase:
    """What ``hours`` of ``machine`` are, and the optimum of ``fit`` after one more day.

    Raises `FlopsFitError` for hours that are not positive.
    """
    more, flops = machine.flops(hours + DAY), machine.flops(hours)
    return Purchase(
        hours=hours,
        devices=machine.devices,
        flops_per_second=machine.flops_per_second,
        source=machine.source,
        flops=flops,
        money=machine.money(hours),
        one_more_day=None if unanswerable(fit, more) else optimum_at(fit, more),
    )
