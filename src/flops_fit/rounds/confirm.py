"""Confirm a fit: train one run at the predicted optimum and compare its loss with the prediction.

The prediction is stored in the config that `flops-fit confirm` writes, so no later fit changes it.
"""

from pathlib import Path

import numpy as np
from scipy.special import ndtri

from flops_fit.constants import Status
from flops_fit.errors import FlopsFitError
from flops_fit.files import read_object
from flops_fit.fit.core import FEWEST_REPEATS
from flops_fit.fit.numbers import interval
from flops_fit.fit.options import FEWEST_RUNS
from flops_fit.fit.result import Fit
from flops_fit.fit.runs import LOSS
from flops_fit.notation import count_text, flops_text, loss_text

CONFIRMATION = "confirmation.json"
SAME_TOKENS = 0.01  # by which the D of a run of a user's own script may differ from the planned one


def check_measure(fit: Fit, name: str) -> None:
    """Refuse a ``fit``, of the file ``name``, that is not of the loss which a run is trained on.

    Raises `FlopsFitError`.
    """
    measure = fit.data.reading.loss_column
    if measure not in (None, LOSS):
        raise FlopsFitError(
            f"{name}: its law is of {measure!r}, and a confirmation measures the loss that is trained; "
            "allowed: a fit of that loss (fit.loss: null)"
        )


def run_noise(fit: Fit) -> tuple[float, str]:
    """Standard deviation of ln L of one run around the law of ``fit``, and its source as text.

    It is the larger of the measured spread between seeds and the residual scale of the best law
    (corrected for its number of parameters), because misfit moves a run as much as its seed does.
    """
    entry, seeds = fit.parametric, fit.bootstrap.seed_noise
    scale = fit.stack.noise if fit.stack else entry.scale
    scale = float(scale * np.sqrt(entry.n_runs / max(entry.n_runs - FEWEST_RUNS, 1)))
    if seeds and seeds.df >= FEWEST_REPEATS and seeds.sd > scale:
        return float(seeds.sd), "spread between seeds"
    return scale, "residual scale of the fit"


def predicted_loss(fit: Fit, params: float, tokens: float) -> dict:
    """Predict the loss of a run with N = ``params`` and D = ``tokens`` by the headline of ``fit``.

    Returns ``loss``; ``law``, the interval [low, high] of the law there (noise and form); ``run``,
    the interval of one measured run, which adds the ``noise`` of a run (standard deviation of ln L).
    Both intervals are None without resamples.
    """
    cost = fit.cost
    method, level = fit.headline.method, fit.bootstrap.level
    log_n = float(np.log(params))
    log_c = float(np.log(tokens) + cost.log_flops_per_token(log_n))
    law, draws = fit.answering.law, fit.answering.draws
    noise, source = run_noise(fit)
    loss = float(law.off_optimum(log_n, log_c, cost)[0])
    prediction: dict = {
        "loss": loss,
        "law": None,
        "run": None,
        "level": level,
        "noise": noise,
        "noise_words": source,
        "method": method,
    }
    if draws is None:
        return prediction
    z = ndtri((1 + level) / 2)
    drawn = interval(np.log(draws.off_optimum(log_n, log_c, cost)), level)
    sd = (drawn[1] - drawn[0]) / (2 * z)
    for key, wide in (("law", sd), ("run", float(np.hypot(sd, noise)))):
        half = z * wide
        if fit.stack and fit.stack.form_error:
            away = fit.log_distance(float(np.exp(log_c)))
            half = fit.stack.form_error["loss"].half_width(wide, away, level)
        prediction[key] = [float(loss * np.exp(-half)), float(loss * np.exp(half))]
    return prediction


def compare(record: dict, predicted: dict, name: str) -> dict:
    """Compare prediction and measurement; the result is the content of ``confirmation.json``.

    ``record`` is that of the run, ``predicted`` the section ``confirm`` of its config, ``name`` the
    name of the confirmation sweep. ``loss`` is None if the run diverged, ``difference`` is measured
    minus predicted, ``inside_law`` and ``inside_run`` say whether the measured loss lies in either
    interval. Raises `FlopsFitError` if the run has another D than the prediction.
    """
    completed = Status(record["status"]).usable
    loss = record["final_loss"] if completed else None
    outcome = {
        "sweep": predicted["sweep"],
        "name": name,
        "experiment_id": record["experiment_id"],
        "status": record["status"],
        "reason": record["reason"],
        "size": record["size_param_value"],
        "flops": record["compute_budget"],
        "params": predicted["params"],
        "tokens": predicted["tokens"],
        "predicted": predicted,
        "loss": loss,
        "loss_se": record.get("final_loss_se"),
        "difference": None,
        "inside_law": None,
        "inside_run": None,
    }
    if not completed:
        return outcome
    if record["num_tokens"] != predicted["tokens"]:
        raise FlopsFitError(
            f"confirm.tokens: the prediction is for {predicted['tokens']} tokens, but the run had "
            f"{record['num_tokens']}; the config was changed: run flops-fit confirm again"
        )

    seen = record.get("tokens_seen", record["num_tokens"])
    if abs(seen / predicted["tokens"] - 1) > SAME_TOKENS:
        raise FlopsFitError(
            f"{record['experiment_id']}: the prediction is for {predicted['tokens']} tokens, but the "
            f"script trained on {seen}; allowed: a script that trains run.tokens tokens"
        )

    def inside(ends: list[float] | None) -> bool | None:
        return None if ends is None or loss is None else bool(ends[0] <= loss <= ends[1])

    return outcome | {
        "difference": loss - predicted["loss"],
        "inside_law": inside(predicted["law"]),
        "inside_run": inside(predicted["run"]),
    }


def confirmation_files(results: str | Path, sweep: str) -> list[str]:
    """Paths in ``results`` of the finished confirmations of ``sweep``, the cheapest first."""
    files = {str(path): read_object(path) for path in Path(results).glob(f"*/{CONFIRMATION}")}
    matching = [path for path, outcome in files.items() if outcome.get("sweep") == sweep]
    return sorted(matching, key=lambda path: (files[path]["flops"], path))


def confirmations_of(results: str | Path, sweep: str) -> list[dict]:
    """The finished confirmations of ``sweep`` in ``results``, the cheapest first (see `compare`)."""
    return [read_object(path) for path in confirmation_files(results, sweep)]


def confirmation_table(outcome: dict) -> str:
    """The ``outcome`` of a confirmation (see `compare`) as Markdown."""
    predicted = outcome["predicted"]
    level = f"{100 * predicted['level']:.0f}%"

    def ends(pair: list[float] | None) -> str:
        return "none" if pair is None else f"{loss_text(pair[0])} – {loss_text(pair[1])}"

    lines = [
        f"# One run at the optimum that {outcome['sweep']} predicts for "
        f"{flops_text(outcome['flops'])} FLOPs",
        "",
        f"{outcome['experiment_id']}: size {outcome['size']}, N {count_text(outcome['params'])}, "
        f"D {count_text(outcome['tokens'])}.",
        "",
        "| | loss |",
        "|---|---|",
        f"| predicted, by {predicted['method']} | {loss_text(predicted['loss'])} |",
        f"| {level} interval of the law | {ends(predicted['law'])} |",
        f"| {level} interval for one run | {ends(predicted['run'])} |",
    ]
    if outcome["loss"] is None:
        return "\n".join(
            [
                *lines,
                f"| measured | none: {outcome['status']} |",
                "",
                f"The run {outcome['status']}: {outcome['reason']}",
                "",
            ]
        )
    error = "" if outcome["loss_se"] is None else f" (standard error {outcome['loss_se']:.4f})"
    lines.append(f"| measured | {loss_text(outcome['loss'])}{error} |")
    lines += ["", outcome_text(outcome)]
    if not predicted["blind"]:
        lines.append("The run was trained before the prediction, but the fit did not contain it.")
    return "\n".join([*lines, ""])


def outcome_text(outcome: dict) -> str:
    """One sentence on whether the prediction of ``outcome`` (see `compare`) was right."""
    if outcome["loss"] is None:
        return f"the run {outcome['status']}: {outcome['reason']}"
    difference = outcome["difference"]
    off = f"measured {difference:+.4f} ({difference / outcome['predicted']['loss']:+.2%})"
    if outcome["inside_run"] is None:
        return f"{off} from the prediction, which has no interval."
    where = "inside" if outcome["inside_run"] else "outside"
    law = " and inside that of the law itself" if outcome["inside_law"] else ""
    return f"{off} from the prediction: {where} the interval for one run{law}."
