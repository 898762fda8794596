"""The two files between a sweep and a user's own script: what it shall train, and what came out.

`flops_fit.run` is the script's side of both; their schemas are in ``docs/schemas``. The result is
what the script says, so it is compared with the plan before anything of it is recorded.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from flops_fit.constants import Status
from flops_fit.errors import FlopsFitError
from flops_fit.files import FORMAT, check_format, read_json, write_json
from flops_fit.run import ERROR, FINAL, STOPPED, TRIAL_STEPS
from flops_fit.sweep import ModelCount

SPEC, RESULT, TRY = "FLOPS_FIT_SPEC", "FLOPS_FIT_RESULT", "FLOPS_FIT_TRY"  # the script's variables
FOLDER = "script"  # of a script's checkpoints and progress, in the folder of its run
PARAMS_TOLERANCE = 0.01  # beyond it the script has built another model than the plan counted
RESULT_KEYS: dict[str, Any] = {
    "format": int,
    "experiment_id": str,
    "hash": str,
    "status": str,
    "reason": str,
    "loss": (int, float),
    "tokens": int,
    "params": int,
    "loss_se": (int, float, type(None)),
    "metrics": dict,
    "curve": dict,
    "seconds": (int, float),
    "world_size": int,
    "versions": dict,
    "used": list,
    "try": bool,
}
REQUIRED = {
    Status.COMPLETED: ("format", "experiment_id", "hash", "status", "loss", "tokens"),
    Status.DIVERGED: ("format", "experiment_id", "hash", "status"),
    STOPPED: ("format", "experiment_id", "hash", "status"),
    ERROR: ("format", "experiment_id", "hash", "status", "reason"),
}


@dataclass(frozen=True)
class ScriptSpec:
    """What a script is asked to train; written as JSON, one key for each field.

    ``experiment_id`` and ``hash`` name the experiment, ``size`` its model, ``seed`` its random
    numbers; ``learning_rate`` is the peak. ``steps`` x ``batch_items`` x ``tokens_per_item`` =
    ``tokens``. ``folder`` is the script's, for
    checkpoints; ``arguments`` are those of a model with several dials. ``processes``, ``threads``
    (of each process) and ``gpus`` are what the job was given.
    """

    experiment_id: str
    hash: str
    size: float
    tokens: int
    steps: int
    batch_items: int
    tokens_per_item: int
    learning_rate: float
    seed: int
    folder: str
    arguments: dict[str, Any] = field(default_factory=dict)
    processes: int = 1
    threads: int = 1
    gpus: int = 0

    def write(self, path: str | Path) -> None:
        """Write the spec to ``path``, for the variable FLOPS_FIT_SPEC to name."""
        write_json(path, {"format": FORMAT, **asdict(self)})

    def trial(self, folder: str) -> "ScriptSpec":
        """The same experiment for two steps in ``folder``, to see whether the script runs at all."""
        steps = min(self.steps, TRIAL_STEPS)
        return replace(self, steps=steps, tokens=steps * self.batch_tokens, folder=folder)

    @property
    def batch_tokens(self) -> int:
        """Tokens of a global batch."""
        return self.batch_items * self.tokens_per_item


@dataclass(frozen=True)
class ScriptOutcome:
    """How a script's run ended, checked against its plan.

    ``status`` is completed, diverged, stopped (to be started again) or failed, with the ``reason``.
    ``tokens`` is what the script says to have trained on, ``loss_se`` the error of its ``loss``,
    ``params`` its own count, ``metrics`` more numbers by name; ``curve`` holds lists ``tokens`` and
    ``loss``, ``seconds`` the time of all attempts. ``world_size`` is the number of processes,
    ``versions`` those of the libraries that the script imported, ``used`` the files that it read.
    ``verified`` names what agreed with the plan, ``notes`` are sentences to be said.
    """

    status: str
    reason: str = ""
    loss: float | None = None
    loss_se: float | None = None
    tokens: int = 0
    params: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    curve: dict[str, list] = field(default_factory=lambda: {"tokens": [], "loss": []})
    seconds: float = 0.0
    world_size: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    verified: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def outcome_of(
    path: str | Path,
    spec: ScriptSpec,
    counts: Mapping[str, int],
    exit_status: int,
    asked_to_stop: bool = False,
    trial: bool = False,
) -> ScriptOutcome:
    """How the run of ``spec`` ended, from the script's result at ``path`` and its ``exit_status``.

    ``counts`` are the numbers of parameters that the plan knows of this size, by name: a script
    may report any of them. ``asked_to_stop`` says whether the job was sent a stop signal,
    ``trial`` whether this was the run of two steps. What is wrong becomes the reason of a failure.
    """
    if not Path(path).exists():
        return _without_result(exit_status, asked_to_stop)
    try:
        result = read_result(path, spec, trial)
        if result["status"] == ERROR:
            if asked_to_stop:  # as another process has left, or in the midst of a save
                return ScriptOutcome(STOPPED, result["reason"])
            return ScriptOutcome(Status.FAILED, result["reason"])
        if result["status"] == STOPPED:
            return ScriptOutcome(STOPPED)
        verified, notes = _compared(result, spec, counts, exit_status)
    except FlopsFitError as error:
        return ScriptOutcome(Status.FAILED, str(error))
    known = {key: result[key] for key in _RECORDED if key in result}
    return ScriptOutcome(**known, verified=verified, notes=notes)


_RECORDED = set(RESULT_KEYS) - {"format", "experiment_id", "hash", "try"}


def read_result(path: str | Path, spec: ScriptSpec, trial: bool = False) -> dict:
    """A script's result at ``path``, if it is one of the experiment of ``spec``, and whole.

    ``trial``: whether it is to be that of a trial. Raises `FlopsFitError` that names the file, the
    key and what is allowed.
    """
    result = read_json(path)
    if not isinstance(result, dict):
        raise FlopsFitError(f"{path}: {result!r:.60}; allowed: a JSON object")
    check_format(result, path)
    status = result.get("status")
    if status not in REQUIRED:
        raise FlopsFitError(f"{path}: status: {status!r}; allowed: {', '.join(REQUIRED)}")
    for key in (*REQUIRED[status], *(key for key in RESULT_KEYS if key in result)):
        value = result.get(key)
        kind = RESULT_KEYS[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            given = f"{value!r:.60}" if key in result else "missing"
            raise FlopsFitError(f"{path}: {key}: {given}; allowed: {_kind_text(kind)}")
    for key in ("experiment_id", "hash"):
        if result[key] != getattr(spec, key):
            raise FlopsFitError(
                f"{path}: {key}: {result[key]!r}, which is another experiment's; allowed: "
                f"{getattr(spec, key)!r}, as in the file that {SPEC} names"
            )
    if result.get("try", False) != trial:
        raise FlopsFitError(
            f"{path}: try: {not trial}; allowed: {str(trial).lower()}, "
            f"as {TRY} was {'' if trial else 'not '}set"
        )
    if status == Status.COMPLETED:
        _check_completed(result, path)
    _check_numbers(result, path)
    return result


def is_committed(path: Path, spec: ScriptSpec) -> bool:
    """Whether the run of ``spec`` left a final result at ``path``, which then counts.

    One that was stopped, failed or is broken is removed.
    """
    if not path.exists():
        return False
    try:
        final = read_result(path, spec)["status"] in FINAL
    except FlopsFitError:
        final = False
    if not final:
        path.unlink()
    return final


def _check_completed(result: dict, path: str | Path) -> None:
    loss, tokens = result["loss"], result["tokens"]
    if not math.isfinite(loss) or loss <= 0:
        raise FlopsFitError(
            f"{path}: loss: {loss}; allowed: a finite number above zero, as a scaling law takes "
            "logarithms (a run without such a loss has the status diverged)"
        )
    if tokens < 1:
        raise FlopsFitError(f"{path}: tokens: {tokens}; allowed: a whole number above zero")


def _check_numbers(result: dict, path: str | Path) -> None:
    """Refuse a curve or metrics that hold anything but numbers."""
    curve, metrics = result.get("curve", {}), result.get("metrics", {})
    lists = [curve.get(key, []) for key in ("tokens", "loss")]
    if not all(isinstance(v, list) and all(map(_is_finite, v)) for v in lists) or (
        len(lists[0]) != len(lists[1])
    ):
        raise FlopsFitError(
            f"{path}: curve: {curve!r:.60}; allowed: tokens and loss, two lists of finite numbers, of "
            "one length"
        )
    if not all(isinstance(used, str) for used in result.get("used", [])):
        raise FlopsFitError(f"{path}: used: {result['used']!r:.60}; allowed: a list of paths")
    for name, value in metrics.items():
        if value is not None and not _is_finite(value):
            raise FlopsFitError(
                f"{path}: metrics: {name}: {value!r:.60}; allowed: a finite number or null"
            )


def _is_finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _kind_text(kind: Any) -> str:
    texts = {
        int: "a whole number",
        str: "text",
        dict: "an object",
        list: "a list",
        bool: "true or false",
    }
    return texts.get(kind, "a number")


def _without_result(exit_status: int, asked_to_stop: bool) -> ScriptOutcome:
    if asked_to_stop:
        return ScriptOutcome(STOPPED, "the script was ended by the stop signal and saved nothing")
    if exit_status == 0:
        return ScriptOutcome(
            Status.FAILED,
            "the script ended without run.finish(loss=..., tokens=...), so it has no result (it must "
            "be called by the process of rank 0, or by all)",
        )
    how = f"with status {exit_status}"
    if exit_status < 0 or exit_status > 128:
        number = -exit_status if exit_status < 0 else exit_status - 128
        how = f"by signal {number}" + (", usually for lack of memory" if number == 9 else "")
    return ScriptOutcome(
        Status.FAILED, f"the script was ended {how} and left no result; see its log"
    )


def _compared(
    result: dict, spec: ScriptSpec, counts: Mapping[str, int], exit_status: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What of ``result`` agrees with the plan, and what is to be said of the rest."""
    verified, notes = [], []
    if result["status"] == Status.COMPLETED:
        if abs(result["tokens"] - spec.tokens) <= spec.batch_tokens:
            verified.append("tokens")
        else:
            notes.append(f"trained on {result['tokens']} tokens, planned {spec.tokens}")
    if result.get("params") is not None and counts:
        _check_params(result["params"], counts)
        verified.append("params")
    if result.get("world_size") == spec.processes:
        verified.append("processes")
    elif "world_size" in result:
        notes.append(f"ran as {result['world_size']} processes, planned {spec.processes}")
    if exit_status == 0:
        verified.append("exit status")
    else:
        notes.append(f"the script ended with status {exit_status} after its result, which is kept")
    if unknown := sorted(set(result) - set(RESULT_KEYS)):
        notes.append(f"not used of its result: {', '.join(unknown)}")
    return tuple(verified), tuple(notes)


def _check_params(params: int, counts: Mapping[str, int]) -> None:
    if not any(abs(params - count) <= PARAMS_TOLERANCE * count for count in counts.values()):
        known = ", ".join(f"{name} = {count}" for name, count in counts.items())
        raise FlopsFitError(
            f"run.finish: params = {params}, and the plan counts {known}; allowed: one of these "
            "within 1%, so the script builds a model of another size than it is asked for, or counts "
            "is wrong (once it is corrected, a finished run is not trained again)"
        )


def record_fields(
    outcome: ScriptOutcome, count: ModelCount, spec: ScriptSpec, trained_by: str
) -> dict[str, Any]:
    """What the record of the run of ``spec`` says of its ``outcome``.

    ``count`` is that of the plan for its size; ``trained_by`` says what trained it.
    """
    seen = outcome.tokens or spec.tokens  # a diverged run may not know
    fields = {
        "status": outcome.status,
        "reason": outcome.reason,
        "final_loss": outcome.loss,
        "final_loss_se": outcome.loss_se,
        "loss_curve": outcome.curve,
        "tokens_seen": seen,
        "input_positions": None,
        "num_params": count.num_params,
        "epochs": None,
        "steps_done": round(spec.steps * seen / spec.tokens),
        "processes": outcome.world_size or spec.processes,
        "device": "gpu" if spec.gpus else "cpu",
        "wall_seconds": outcome.seconds,
        "tokens_per_second": seen / outcome.seconds if outcome.seconds else None,
        "trained_by": trained_by,
        "verified": list(outcome.verified),
        "notes": list(outcome.notes),
        "metrics": outcome.metrics,
        "reported_params": outcome.params,
    }
    without = [key for key in ("metrics", "reported_params") if not fields[key]]
    return {key: value for key, value in fields.items() if key not in without}


def counts_of(count: ModelCount) -> dict[str, int]:
    """The numbers of parameters in ``count`` that a script may report."""
    names = ("params", "params_nonembedding", "params_total", "num_params")
    return {name: getattr(count, name) for name in names if getattr(count, name)}
