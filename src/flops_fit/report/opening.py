"""The first screen of the page: the answer in a sentence, what was studied, four checks a card."""

from collections.abc import Mapping, Sequence

from flops_fit.fit.result import Fit
from flops_fit.fit.verdict import FAR, PROMISED, ROUNDED, promise_text
from flops_fit.notation import count_text, flops_text

UNDETERMINED = "These runs do not determine how large a model should be"


def answer_sentence(answers: Sequence[Mapping], size_param: str) -> str:
    """The answer of the largest budget that is trusted, else of the largest that has an answer.

    ``answers`` are those of `answers_of`; ``size_param`` is the name of the model's size.
    """
    answered = [answer for answer in answers if answer["params"] is not None]
    if not answered:
        return UNDETERMINED
    trusted = [answer for answer in answered if answer["verdict"] == "trust"]
    best = (trusted or answered)[-1]
    size = f" ({size_param}\u00a0{best['size_value']})" if best["size_value"] is not None else ""
    good = best["ranges"]["1"]
    as_good = f"; any size from {good['low']['text']} to {good['high']['text']} is as good"
    doubt = "" if trusted else f" ({best['verdict']})"
    return (
        f"With {best['budget']} FLOPs, train a model of about {count_text(best['params'])} parameters"
        f"{size} on {count_text(best['tokens'])} tokens{as_good if good else ''}{doubt}"
    )


def studied(
    fit: Fit, model: Mapping | None, program: str | None, topics: Mapping[str, str], dated: str
) -> list[str]:
    """What was studied, in short parts: model, data, runs, budgets, version and date.

    ``model`` or ``program``, the user's script, and ``topics`` (from `checklist`) describe the runs
    of ``fit``; a bare table has neither. ``dated`` is the day of the fit, or "".
    """
    parts = [program] if program else []
    if model and model["factory"]:
        parts += [model["factory"], topics["Data and tokenizer"].partition("(")[0]]
    budgets = fit.data.budgets
    runs = f"{fit.data.n_runs} runs"
    if budgets:
        number = f"{len(budgets)} budgets up to" if len(budgets) > 1 else "one budget of"
        runs += f" at {number} {flops_text(max(budgets))} FLOPs"
    versions = topics["Versions"].partition(",")[0].replace("flops_fit", "flops-fit")
    return [*parts, runs, versions, *([dated] if dated else [])]


def _tested(held: int) -> str:
    if not held:
        return "no budget to test it on"
    return f"tested on {held} held-out {'budget' if held == 1 else 'budgets'}"


def cards_of(answers: Sequence[Mapping]) -> list[list[Mapping]]:
    """The ``answers`` in cards: one each, and one for neighbours without any number for one reason."""
    cards: list[list[Mapping]] = []
    for answer in answers:
        silent = answer["params"] is None and answer["axis"] is None
        last = cards[-1][0] if cards else None
        if silent and last and last["params"] is None and last["reasons"] == answer["reasons"]:
            cards[-1].append(answer)
        else:
            cards.append([answer])
    return cards


def checks_of(answer: Mapping, fit: Fit) -> list[tuple[str, str]]:
    """Four checks of ``answer`` as (state, text); none where it has no numbers.

    The state is passed, open, or none where the runs allow no such check.

    They are the distance from the runs of ``fit``, its minima, its held-out test, and the probability
    that the advised size is nearly the best one.
    """
    if answer["params"] is None:
        return []
    minima = fit.isoflop.budgets
    bracketed = sum(minimum.status == "bracketed" for minimum in minima)
    tests = {test.flops for test in fit.stack.tests["params"]} if fit.stack else set()
    held = len(tests) or fit.heldout.levels_scored
    promise = answer["promise"]
    sure = f"{promise_text(promise)} sure: " if promise is not None else "not known: "
    states = ("open", "passed")
    return [
        (states[answer["beyond_data"] <= FAR * ROUNDED], answer["beyond"]),
        (states[bracketed == len(minima)], f"{bracketed} of {len(minima)} minima bracketed")
        if minima
        else ("none", "no curve per budget"),
        (states[held > 0], _tested(held)),
        (states[(promise or 0) >= PROMISED], f"{sure}at most 5% wasted"),
    ]
