"""The cards of the answer: the result of `predict` at each budget as text."""

import json
from collections.abc import Callable, Sequence

import numpy as np

from flops_fit.constants import MOST_EPOCHS
from flops_fit.fit.answer import Answer
from flops_fit.fit.prediction import predict
from flops_fit.fit.record import record_words
from flops_fit.fit.result import Fit
from flops_fit.fit.sensitivity import sensitivity_at, spread_of
from flops_fit.notation import count_text, factor_text, flops_text, loss_text, time_text, waste_text

GAP = 1.08  # factor in N by which refits must leave the interval to be mentioned
SAME = 0.005  # relative distance within which a budget counts as the largest
QUANTITIES = (
    ("params", "Parameters N", count_text),
    ("tokens", "Tokens D", count_text),
    ("tokens_per_param", "Tokens per parameter", count_text),
    ("loss", "Expected loss", loss_text),
)


def written(value: float | None, write: Callable[[float], str]) -> dict:
    """``value`` and its text as given by ``write``; a dash for None."""
    if value is None:
        return {"value": "", "text": "–"}
    return {"value": value, "text": write(value)}


def interval(ends: list[float] | None, write: Callable[[float], str]) -> dict | None:
    """Both ``ends`` of an interval, each as in `written` with ``write``; None for None."""
    if not ends:
        return None
    low, high = (written(end, write) for end in ends)
    return {"low": low, "high": high, "text": f"{low['text']} – {high['text']}"}


def answers_of(fit: Fit, budgets: list[float], records: Sequence[dict] = ()) -> list[dict]:
    """The prediction of ``fit`` at each of ``budgets`` (FLOPs), every number with its text.

    ``records`` add the time at their best speed, the passes over their data and the lines of the
    config that name the model.
    """
    answers = []
    for flops in budgets:
        answer = predict(fit, flops)
        rows = [
            {
                "name": name,
                "label": label,
                **written(getattr(answer, name), write),
                "interval": interval((answer.ci or {}).get(name), write),
                "noise": interval((answer.ci_noise or {}).get(name), write),
            }
            for name, label, write in QUANTITIES
        ]
        moved = choices(fit, flops) if answer.params is not None else None
        answers.append(
            {
                **vars(answer),
                "rows": rows,
                "record": record_words(answer.verdict, answer.beyond_data) if fit.stack else "",
                "ranges": {
                    "1": interval(answer.range_1pct, count_text),
                    "5": interval(answer.range_5pct, count_text),
                },
                "choices": moved,
                "moved_beyond": _moved_beyond(moved, (answer.ci or {}).get("params")),
                "budget": flops_text(flops),
                "beyond": _beyond(answer.beyond_data),
                "regret": [
                    {
                        **vars(r),
                        "factor_text": factor_text(r.factor),
                        "params_text": count_text(r.params),
                        "text": waste_text(r.waste),
                    }
                    for r in answer.regret
                ],
                "config": _config(answer, records),
                **_effort(answer, records),
            }
        )
    return answers


def choices(fit: Fit, flops: float) -> dict | None:
    """The range of N over all refits of ``fit`` at a budget of ``flops``; None without refits."""
    if not fit.sensitivity or not fit.identified:
        return None
    return interval(spread_of(sensitivity_at(fit, flops))["all"], count_text)


def _moved_beyond(moved: dict | None, ci: list[float] | None) -> bool:
    """Whether other choices move N clearly beyond its interval."""
    if not moved or not ci:
        return False
    return moved["low"]["value"] < ci[0] / GAP or moved["high"]["value"] > ci[1] * GAP


def _beyond(factor: float) -> str:
    if abs(factor - 1) < SAME:
        return "the largest budget of the data"
    if factor < 1:
        return f"inside the data: {factor_text(factor)} the largest budget"
    return f"{factor_text(factor)} the largest budget of the data"


def model_of(records: Sequence[dict]) -> dict | None:
    """The model of ``records`` as a config names it; None without records, or with a script's."""
    model = _identity(records).get("model")
    keys = ("factory", "size_param", "kwargs")  # a class given in Python has no factory
    return model and {key: model.get(key) for key in keys}


def program_of(records: Sequence[dict]) -> str | None:
    """The user's script or program that trained ``records``; None where flops-fit trained them."""
    return _identity(records).get("trainer", {}).get("line", [None])[0]


def _identity(records: Sequence[dict]) -> dict:
    return next((r["identity"] for r in records if r.get("identity")), {})


def _config(answer: Answer, records: Sequence[dict]) -> str | None:
    """The lines of a config that train the size that can be built."""
    if answer.config is None:
        return None
    model = model_of(records)
    if model is None or model["factory"] is None:
        return answer.config
    kwargs = json.dumps(model["kwargs"]) if model["kwargs"] else "{}"
    named = f"factory: {model['factory']}, size_param: {model['size_param']}, kwargs: {kwargs}"
    return f"model: {{{named}}}\n{answer.config}"


def _effort(answer: Answer, records: Sequence[dict]) -> dict:
    """``time`` at the best speed of the runs and ``epochs`` of their data, as text or None.

    ``repeated`` is the number of passes up to which repeated data are nearly as good as new data,
    if the optimum needs more.
    """
    speeds = [
        r.get("flops_here", r["flops_counted"]) / r["wall_seconds"]
        for r in records
        if r.get("wall_seconds") and r.get("flops_counted")
    ]
    unique = [r["tokens_seen"] / r["epochs"] for r in records if r.get("epochs")]
    epochs = 0.0 if answer.tokens is None or not unique else answer.tokens / np.median(unique)
    return {
        "time": time_text(answer.flops / max(speeds)) if speeds else None,
        "epochs": f"{epochs:.2g}" if epochs else None,
        "repeated": f"{MOST_EPOCHS:g}" if epochs > MOST_EPOCHS else None,
    }


def range_bars(answers: list[dict]) -> list[dict]:
    """The ranges of good sizes of ``answers`` on a common axis of ln N, in per cent of its width.

    ``answers`` are those with numbers. ``wide`` and ``near`` are [left, width] of the 5% and the 1%
    range, ``best`` is N*.
    """
    if not answers:
        return []
    low = min(answer["range_5pct"][0] for answer in answers)
    high = max(answer["range_5pct"][1] for answer in answers)
    scale = 100 / max(float(np.log(high / low)), 1e-9)

    def at(params: float) -> float:
        return round(float(np.log(params / low)) * scale, 2)

    def span(ends: list[float]) -> list[float]:
        return [at(ends[0]), round(at(ends[1]) - at(ends[0]), 2)]

    return [
        {"wide": span(a["range_5pct"]), "near": span(a["range_1pct"]), "best": at(a["params"])}
        for a in answers
    ]
