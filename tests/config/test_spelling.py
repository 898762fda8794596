"""One value has one spelling after a config is completed, so that identities do not tell them apart."""

import pytest

from flops_fit.config.complete import complete_config

MINIMAL = {
    "name": "x",
    "model": {"factory": "mine:Net", "size_param": "width"},
    "dataset": {"factory": "mine:data"},
    "budgets": [1e9],
    "sizes": {"values": [8]},
}


def completed(key: str, value):
    section, _, name = key.partition(".")
    raw = MINIMAL | {section: {**MINIMAL.get(section, {}), name: value} if name else value}
    part = complete_config(raw)[section]
    return repr(part[name] if name else part)


@pytest.mark.parametrize(
    ("key", "spellings"),
    [
        ("schedule.warmup", [0, 0.0, "0", "0e0"]),
        ("schedule.final", [1, 1.0, "1e0"]),
        ("learning_rate.value", [1, 1.0, "1.0"]),
        ("learning_rate.value", [1e-5, "1e-5", "1.0e-5", "10E-6"]),
        ("optimizer.clip_norm", [2, 2.0, "2e0"]),
        ("learning_rate_factors", [[1], [1.0], ["1"]]),
        ("seeds", [[3], [3.0], ["3"]]),
        ("budgets", [[10**9], [1e9], ["1e9"]]),
        ("sizes.values", [[8], [8.0], ["8e0"]]),
        ("sizes.values", [[0.5, 1], [0.5, 1.0], ["5e-1", "1"]]),
        ("model.kwargs", [{"eps": 1e-5}, {"eps": "1e-5"}, {"eps": "1.0E-05"}]),
        ("dataset.kwargs", [{"mix": {"web": [0.5, 1e3]}}, {"mix": {"web": ["5e-1", "1e3"]}}]),
    ],
)
def test_spellings_of_one_value_are_one(key, spellings):
    assert len({completed(key, value) for value in spellings}) == 1


def test_a_plug_in_can_tell_whole_numbers_from_decimals_and_text_from_numbers():
    values = [1, 1.0, "1", "1e5x", "e5", "v1e5"]
    kwargs = completed("model.kwargs", {str(i): v for i, v in enumerate(values)})
    assert kwargs == repr({str(i): v for i, v in enumerate(values)})
