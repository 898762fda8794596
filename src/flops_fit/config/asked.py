"""Check what a config asks to be measured, fitted and answered."""

from collections.abc import Mapping
from typing import Any

from flops_fit.errors import FlopsFitError

LOSS = "loss"  # the loss that is trained, in results.csv
COLUMNS = {  # of results.csv beside the metrics, and two more that the fit reads in any table
    *("experiment_id", "status", "budget", "size", "seed", "params", "params_nonembedding"),
    *("params_total", "params_matmul", "num_params", "tokens", "flops", "flops_6nd"),
    *("flops_counted", "flops_per_token", LOSS, "loss_se", "steps", "batch_items"),
    *("learning_rate", "epochs", "wall_seconds", "tokens_per_second", "reason"),
    *("outlier", "unique_tokens"),
}


def check_metrics(config: Mapping[str, Any]) -> None:
    """Check the names of the metrics of ``config``, and that its fit asks for those that there are.

    Raises `FlopsFitError` that names the key.
    """
    metrics = config.get("metrics") or {}
    for name, metric in metrics.items():
        if name.lower() in COLUMNS:
            raise FlopsFitError(
                f"metrics.{name}: results.csv has a column {name.lower()} already; allowed: any other "
                "name"
            )
        if not metric.get("function") and not metric.get("dataset"):
            raise FlopsFitError(
                f"metrics.{name}: neither function nor dataset is given, so it would be the loss "
                "itself; allowed: at least one of them"
            )
    fit = config.get("fit") or {}
    for key in ("loss", "accuracy"):
        known = [*([LOSS] if key == "loss" else []), *metrics]
        if fit.get(key) is not None and fit[key] not in known:
            allowed = ", ".join(known) or "a name under metrics, where there is none"
            raise FlopsFitError(f"fit.{key}: {fit[key]!r} is not measured; allowed: {allowed}")


def check_measures(fit: Mapping[str, Any]) -> None:
    """Check which measures the section ``fit`` of any config combines.

    Raises `FlopsFitError` that names the key.
    """
    if fit.get("chance") is not None and fit.get("accuracy") is None:
        raise FlopsFitError("fit.chance: needs fit.accuracy, which is missing")
    if fit.get("method") == "envelope" and fit.get("loss") not in (None, LOSS):
        raise FlopsFitError(
            f"fit.loss: {fit['loss']!r} cannot be combined with fit.method: envelope, which reads the "
            "curves of the loss that is trained; remove one of them"
        )


def check_answer(answer: Mapping[str, Any], pricing: Mapping[str, Any]) -> None:
    """Check that ``pricing`` has the speed and the price that ``answer`` needs.

    Hours and money can only be turned into FLOPs at a known speed and price. Raises `FlopsFitError`
    that names the key.
    """
    bought = [key for key in ("hours", "money") if answer.get(key) is not None]
    if len(bought) == 2:
        raise FlopsFitError(
            "answer.money: cannot be combined with answer.hours; remove one of them"
        )
    needed = ["device or pricing.flops_per_second"] if bought else []
    if needed and any(pricing.get(key) is not None for key in ("device", "flops_per_second")):
        needed = []
    if "money" in bought and pricing.get("per_hour") is None:
        needed.append("per_hour")
    if needed:
        raise FlopsFitError(f"answer.{bought[0]}: needs pricing.{needed[0]}, which is missing")
