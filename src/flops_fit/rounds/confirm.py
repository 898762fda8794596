"""One run at the predicted optimum: what was predicted before it, against what it then measured.

The prediction is frozen in the config that `flops-fit confirm` writes, so no later fit can touch it.
"""

from pathlib import Path

import numpy as np
from scipy.stats import norm

from flops_fit.errors import FlopsFitError
from flops_fit.files import read_json
from flops_fit.fit.answer import form_errors, log_distance
from flops_fit.fit.cost import Cost
from flops_fit.fit.saved import interval, laws_of
from flops_fit.notation import count_text, flops_text, loss_text
from flops_fit.store.records import COMPLETED

CONFIRMATION = "confirmation.json"
FEWEST_SEED_PAIRS = 3  # degrees of freedom that a measured seed noise needs


def run_noise(fit: dict) -> tuple[float, str]:
    """Sd of ln L of one run around the law, and where it is from.

    The larger of the seeds' spread (where it was measured) and the residual scale of the best law,
    corrected for the unknowns: misfit is as much a part of a run's distance as its seed.
    """
    entry, seeds = fit["parametric"], fit["bootstrap"]["seed_noise"]
    scale = fit["stack"]["noise"] if fit["stack"] else entry["scale"]
    scale = float(scale * np.sqrt(entry["n_runs"] / max(entry["n_runs"] - 5, 1)))
    if seeds and seeds["df"] >= FEWEST_SEED_PAIRS and seeds["sd"] > scale:
        return float(seeds["sd"]), "spread between seeds"
    return scale, "residual scale of the fit"


def predicted_loss(fit: dict, params: float, tokens: float) -> dict:
    """The loss of a run of N ``params`` and D ``tokens`` by the headline of ``fit``, with intervals.

    ``loss``; ``law``: [low, high] of the law there (noise and form); ``run``: [low, high] for one
    measured run, which adds its ``noise`` (sd of ln L). The intervals are None without resamples.
    """
    laws, cost = laws_of(fit), Cost.from_dict(fit["cost"])
    method, level = fit["headline"]["method"], fit["bootstrap"]["level"]
    log_n = float(np.log(params))
    log_c = float(np.log(tokens) + cost.log_flops_per_token(log_n))
    law, draws = laws[method]
    noise, words = run_noise(fit)
    loss = float(law.off_optimum(log_n, log_c, cost)[0])
    told = {
        "loss": loss,
        "law": None,
        "run": None,
        "level": level,
        "noise": noise,
        "noise_words": words,
        "method": method,
    }
    if draws is None:
        return told
    z = norm.ppf((1 + level) / 2)
    drawn = interval(np.log(draws.off_optimum(log_n, log_c, cost)), level)
    sd = (drawn[1] - drawn[0]) / (2 * z)
    for key, wide in (("law", sd), ("run", float(np.hypot(sd, noise)))):
        half = z * wide
        if fit["stack"]:
            half = form_errors(fit)["loss"].half_width(
                wide, log_distance(fit, float(np.exp(log_c))), level
            )
        told[key] = [float(loss * np.exp(-half)), float(loss * np.exp(half))]
    return told


def compare(record: dict, predicted: dict, name: str) -> dict:
    """Predicted against measured, as ``confirmation.json`` keeps it.

    ``record``: the run's, of results.json. ``predicted``: the config's ``confirm``. ``name``: of
    the confirming sweep. A run that
    diverged has ``loss`` None. ``difference`` is measured less predicted; ``inside_law`` and
    ``inside_run`` say whether the measured loss lies in either interval.
    """
    completed = record["status"] == COMPLETED
    loss = record["final_loss"] if completed else None
    told = {
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
        return told
    if record["num_tokens"] != predicted["tokens"]:
        raise FlopsFitError(
            f"confirm.tokens: {predicted['tokens']} predicted for, {record['num_tokens']} trained; "
            "the config was changed since: run flops-fit confirm again"
        )

    def inside(ends) -> bool | None:
        return None if ends is None else bool(ends[0] <= loss <= ends[1])

    return told | {
        "difference": loss - predicted["loss"],
        "inside_law": inside(predicted["law"]),
        "inside_run": inside(predicted["run"]),
    }


def confirmation_files(results: str | Path, sweep: str) -> list[str]:
    """Where the finished confirmations of a sweep's predictions lie, the cheapest first."""
    found = {str(path): read_json(path) for path in Path(results).glob(f"*/{CONFIRMATION}")}
    own = [path for path, told in found.items() if told.get("sweep") == sweep]
    return sorted(own, key=lambda path: (found[path]["flops"], path))


def confirmations_of(results: str | Path, sweep: str) -> list[dict]:
    """Every finished confirmation of a sweep's predictions, the cheapest first (see `compare`)."""
    return [read_json(path) for path in confirmation_files(results, sweep)]


def confirmation_table(told: dict) -> str:
    """A confirmation as Markdown."""
    predicted = told["predicted"]
    level = f"{100 * predicted['level']:.0f}%"

    def ends(pair) -> str:
        return "none" if pair is None else f"{loss_text(pair[0])} – {loss_text(pair[1])}"

    lines = [
        f"# One run at the optimum that {told['sweep']} predicts for "
        f"{flops_text(told['flops'])} FLOPs",
        "",
        f"{told['experiment_id']}: size {told['size']}, N {count_text(told['params'])}, "
        f"D {count_text(told['tokens'])}.",
        "",
        "| | loss |",
        "|---|---|",
        f"| predicted, by {predicted['method']} | {loss_text(predicted['loss'])} |",
        f"| {level} interval of the law | {ends(predicted['law'])} |",
        f"| {level} interval for one run | {ends(predicted['run'])} |",
    ]
    if told["loss"] is None:
        return "\n".join(
            [
                *lines,
                f"| measured | none: {told['status']} |",
                "",
                f"The run {told['status']}: {told['reason']}",
                "",
            ]
        )
    error = "" if told["loss_se"] is None else f" (standard error {told['loss_se']:.4f})"
    lines.append(f"| measured | {loss_text(told['loss'])}{error} |")
    lines += ["", outcome_words(told)]
    if not predicted["blind"]:
        lines.append("The run had been trained before it was predicted, though not fitted.")
    return "\n".join([*lines, ""])


def outcome_words(told: dict) -> str:
    """Whether the prediction held, in a sentence."""
    if told["loss"] is None:
        return f"the run {told['status']}: {told['reason']}"
    off = f"measured {told['difference']:+.4f} ({told['difference'] / told['predicted']['loss']:+.2%})"
    if told["inside_run"] is None:
        return f"{off} from the prediction, which has no interval."
    where = "inside" if told["inside_run"] else "outside"
    law = " and inside that of the law itself" if told["inside_law"] else ""
    return f"{off} from the prediction: {where} the interval for one run{law}."
