"""How well a design separates N from D."""

import numpy as np
import pytest

from flops_fit.plan.conditioning import MOST, POOR, condition_number

N = np.geomspace(1e6, 1e8, 12)


def test_a_fixed_ratio_of_tokens_to_parameters_has_a_huge_condition_number():
    assert condition_number(N, 20 * N) > 1e6


def test_it_falls_with_the_spread_of_the_ratio():
    away = np.where(np.arange(len(N)) % 2, 1.0, -1.0)
    values = [condition_number(N, 20 * N * np.exp(s * away)) for s in (0.02, 0.1, 0.3, 1.0)]
    assert values == sorted(values, reverse=True)
    assert values[1] > POOR > values[2]


def test_a_sweep_over_budgets_and_sizes_is_well_conditioned():
    budgets = np.repeat([1e17, 3e17, 1e18, 3e18], 6)
    params = np.sqrt(budgets / 120) * np.tile(np.geomspace(0.3, 3, 6), 4)
    assert condition_number(params, budgets / (6 * params)) < 80


def test_units_of_n_and_d_do_not_matter():
    tokens = 20 * N * np.tile([0.5, 1.0, 2.0], 4)
    expected = pytest.approx(condition_number(N, tokens), rel=1e-9)
    assert condition_number(1e3 * N, 1e-3 * tokens) == expected


@pytest.mark.parametrize(
    ("params", "tokens"),
    [([1e6] * 9, np.geomspace(1e6, 1e9, 9)), (N, [1e8] * len(N)), (N[:4], 20 * N[:4])],
)
def test_too_few_runs_and_a_single_value_of_n_or_d_determine_nothing(params, tokens):
    assert condition_number(params, tokens) >= min(MOST, 1e12)
