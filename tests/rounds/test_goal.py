"""The grammar of a goal, and what the error of the form forbids."""

import math
from types import SimpleNamespace

import pytest

from flops_fit.errors import FlopsFitError
from flops_fit.fit.form_error import FormError
from flops_fit.rounds.goal import (
    Goal,
    budget_for,
    check_possible,
    form_alone,
    interval_text,
    parse_goal,
)

FORM = FormError(0.035, 3.0, 0)


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("N within 1.25x at 1e13", Goal("N", 1.25, "x", 1e13)),
        ("  D within 2 x at 8.1e12 ", Goal("D", 2.0, "x", 8.1e12)),
        ("loss within 1% at 1e22", Goal("loss", 1.0, "%", 1e22)),
        ("loss within 0.02 nats at 1e13", Goal("loss", 0.02, "nats", 1e13)),
    ],
)
def test_a_goal_is_read_and_written_again(text, goal):
    assert parse_goal(text) == goal
    assert parse_goal(goal.text) == goal


@pytest.mark.parametrize(
    "text",
    [
        "",
        "N within 1.25x",
        "M within 1.25x at 1e13",
        "N within 5% at 1e13",
        "loss within 1.25x at 1e13",
        "N within 1x at 1e13",
        "N within 0.8x at 1e13",
        "N within e-x at 1e13",
        "loss within 0% at 1e13",
        "N within 1.25x at -1e13",
        "N within 1.25x at soon",
        "N within 1e999x at 1e13",
        "N within 1.25x at 1e13 FLOPs",
    ],
)
def test_anything_else_is_refused_with_what_is_allowed(text):
    with pytest.raises(FlopsFitError, match="allowed: "):
        parse_goal(text)


def answer(low: float, high: float, loss: float = 2.0) -> SimpleNamespace:
    ci = {"params": [1e6 * low, 1e6 * high], "loss": [loss * low, loss * high]}
    return SimpleNamespace(params=1e6, tokens=2e7, loss=loss, ci=ci)


@pytest.mark.parametrize(
    ("text", "low", "high", "reached"),
    [
        ("N within 1.25x at 1e13", 0.81, 1.24, True),
        ("N within 1.25x at 1e13", 0.79, 1.24, False),
        ("N within 1.25x at 1e13", 0.81, 1.26, False),
        ("loss within 1% at 1e13", 0.991, 1.009, True),
        ("loss within 1% at 1e13", 0.98, 1.009, False),
        ("loss within 0.03 nats at 1e13", 0.99, 1.014, True),
        ("loss within 0.03 nats at 1e13", 0.99, 1.016, False),
    ],
)
def test_both_ends_of_the_interval_must_be_within(text, low, high, reached):
    assert parse_goal(text).reached(answer(low, high)) is reached


def test_an_answer_without_an_interval_reaches_nothing():
    goal = parse_goal("N within 100x at 1e13")
    none = SimpleNamespace(params=None, tokens=None, loss=None, ci=None)
    assert not goal.reached(none)
    assert interval_text(goal, none) == "N not known"
    assert interval_text(goal, answer(0.8, 1.2)) == "N 1.00M within 1.25x (800k to 1.20M)"


@pytest.mark.parametrize("half", [0.03, 0.1, 0.5])
def test_the_budget_named_is_the_one_at_which_the_form_alone_is_as_wide_as_the_goal(half):
    budget = budget_for(FORM, 1e13, half, 0.9)
    assert form_alone(FORM, 1e13, budget, 0.9) == pytest.approx(half)


def test_no_budget_reaches_a_goal_below_the_error_at_the_budget_itself():
    assert budget_for(FORM, 1e13, 0.01, 0.9) is None
    with pytest.raises(FlopsFitError, match="runs of any budget have a larger error"):
        check_possible(parse_goal("N within 1.005x at 1e13"), FORM, 1e12, 0.9, "here")


def test_a_goal_below_the_error_of_the_form_is_refused_and_one_above_is_not():
    alone = math.exp(form_alone(FORM, 1e13, 1e12, 0.9))
    assert "the error of the form of law alone allows N within" in check_possible(
        parse_goal(f"N within {1.01 * alone}x at 1e13"), FORM, 1e12, 0.9, "here"
    )
    with pytest.raises(FlopsFitError, match=r"a config with a budget above \S+ FLOPs"):
        check_possible(parse_goal(f"N within {0.99 * alone}x at 1e13"), FORM, 1e12, 0.9, "here")
