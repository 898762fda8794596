"""A few steps at several sizes: powers of the size that are known beforehand, and real recipes."""

import json
import sys

import numpy as np
import pytest
import torch
import yaml
from planned_job import MODULE, config_of
from torch import nn
from torch.utils.data import TensorDataset

from flops_fit.cli.main import main
from flops_fit.data import as_data
from flops_fit.errors import FlopsFitError
from flops_fit.examples import gpt, gpt_large
from flops_fit.loss import cross_entropy
from flops_fit.optimizer import adamw, as_one_optimizer
from flops_fit.plan.transfer import Transfer, layer_of
from flops_fit.plots.transfer import transfer_figure
from flops_fit.training.transfer import measure_transfer

SIZES = [16, 32, 64]
VOCABULARY = 64


class Wide(nn.Module):
    """The sum of ``width`` weights, which start at zero."""

    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Linear(1, 1, bias=False)
        self.head = nn.Linear(width, 1, bias=False)
        self.norm = nn.LayerNorm(1)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        x = self.scale(x)
        return self.head(x.expand(-1, self.head.in_features)) + 0 * self.norm(x)


def ones():
    items = TensorDataset(torch.ones(64, 1), torch.ones(64, 1))
    return as_data((items, items))


def text():
    """Walks over a small vocabulary, which a model learns from within a few steps."""
    steps = torch.randint(0, 3, (200, 65), generator=torch.Generator().manual_seed(0))
    walks = steps.cumsum(1) % VOCABULARY
    items = TensorDataset(walks[:, :-1], walks[:, 1:])
    return as_data((items, items))


def of_wide(power: float, steps: int = 1, data=None) -> Transfer:
    """Adam's first step moves every weight by its rate, here 0.01 / width^power."""

    def build(width):
        model = Wide(width)
        rate = 0.01 / width**power
        return model, torch.optim.Adam(model.head.parameters(), lr=rate, eps=0.0)

    loss = nn.MSELoss()
    return measure_transfer(build, SIZES, data or ones(), loss, "width", steps=steps, seeds=2)


def of_model(model, make, sizes) -> Transfer:
    def build(size):
        made = model(size)
        return made, as_one_optimizer(make(made))

    return measure_transfer(build, sizes, text(), cross_entropy, "size", steps=6, seeds=2)


def changes(transfer: Transfer) -> dict[str, float | None]:
    return {layer.name: layer.change_power for layer in transfer.layers}


@pytest.mark.parametrize("power", [0, 0.5, 1])
def test_the_power_of_a_known_step_is_found(power):
    transfer = of_wide(power)
    (scale, head, output) = transfer.layers
    assert (scale.name, scale.change_power, scale.change) == ("scale", None, [])
    assert scale.activation == [1, 1, 1]
    assert head.change == pytest.approx([0.01 * size ** (1 - power) for size in SIZES], rel=1e-5)
    assert head.change_power == pytest.approx(1 - power, abs=1e-5)
    assert head.error == pytest.approx(0, abs=1e-6)
    assert (head.moves, transfer.transfers) == ((0, True) if power == 1 else (1, False))
    assert output.change == head.change
    assert transfer.params == [size + 3 for size in SIZES]


def test_the_example_s_recipe_transfers_and_the_standard_one_does_not():
    def model(size):
        return gpt.GPT(size, vocab_size=VOCABULARY)

    good = of_model(model, lambda made: gpt.optimizer(made, 0.02), SIZES)
    assert good.transfers
    assert max(map(abs, changes(good).values())) < 0.25
    assert {"embedding", "blocks.*", "blocks.*.attention.qkv", "blocks.*.mlp.up", "head"} <= set(
        changes(good)
    )
    assert "no layer changes by an amount that depends clearly on the size" in good.sentence()
    bad = of_model(model, lambda made: adamw(made, 0.008), SIZES)
    assert not bad.transfers
    assert changes(bad)["head"] > 0.6
    assert changes(bad)["blocks.*.mlp.down"] > 0.4
    assert "the change grows in head as size^0." in bad.sentence()
    assert good.layers[-1].name == bad.layers[-1].name == "head"  # and not once more as the output


def test_depth_and_width_together_transfer_in_the_large_example():
    def model(depth):
        return gpt_large.GPT(depth, aspect=16, head_dim=16, vocab_size=VOCABULARY, seq_len=64)

    depths = [2, 3, 4]
    good = of_model(model, lambda made: gpt_large.optimizer(made, 0.0005), depths)
    assert good.transfers, good.sentence()
    bad = of_model(model, lambda made: adamw(made, 0.004), depths)
    assert changes(bad)["blocks.*.mlp.down"] > 0.5
    assert not bad.transfers


def test_powers_and_what_has_none():
    sizes = np.array([8.0, 16.0, 64.0])
    change = 3 * sizes**-0.4 * np.array([[0.9], [1.1]])
    layer = layer_of("a", "Linear", sizes, change**0, change)
    assert (layer.activation_power, layer.moves) == (0, -1)
    assert layer.change_power == pytest.approx(-0.4)
    assert not layer.uneven
    noisy = layer_of("a", "Linear", sizes, change, sizes ** np.array([[1.0], [-0.2]]))
    assert noisy.change_power == pytest.approx(0.4)
    assert noisy.moves == 0  # its seeds differ by more
    bump = layer_of("b", "Linear", sizes, change, np.array([[1.0, 5.0, 1.1]]))
    transfer = Transfer("width", [8, 16, 64], [1, 2, 3], [], 5, 2, [bump])
    assert (bump.moves, bump.uneven, transfer.transfers) == (0, True, False)
    assert "differs without a trend in b (x 5 between two sizes)" in transfer.sentence()


def test_the_figure_names_every_layer_with_its_power():
    transfer = of_wide(0.5)
    assert transfer_figure(transfer).startswith(b"<?xml")
    assert transfer_figure(transfer) == transfer_figure(transfer)
    assert transfer_figure(transfer, "png").startswith(b"\x89PNG")


class Bare(nn.Module):
    """Nothing inside that is a module."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, 1))

    def forward(self, x):
        return x.expand(-1, len(self.weight)) @ self.weight


def test_what_cannot_be_watched_is_refused():
    def bare(width):
        model = Bare(width)
        return model, torch.optim.SGD(model.parameters(), lr=0.01)

    with pytest.raises(
        FlopsFitError, match="Bare has no modules inside whose outputs can be watched"
    ):
        measure_transfer(bare, SIZES, ones(), nn.MSELoss(), "width")

    def wild(width):
        model = Wide(width)
        return model, torch.optim.SGD(model.head.parameters(), lr=1e20)

    with pytest.raises(FlopsFitError, match=r"size 16: the loss is .* at step"):
        measure_transfer(wild, SIZES, ones(), nn.MSELoss(), "width")


@pytest.mark.seconds
def test_the_command_checks_the_sizes_of_a_sweep(tmp_path, monkeypatch, capsys):
    (tmp_path / "transferred.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sizes = {"values": [8, 12, 16, 24, 32]}
    config = config_of("tiny", "transferred", budgets=[1e6], sizes=sizes, limits={"max_epochs": 99})
    keys = ("name", "model", "dataset", "budgets", "sizes", "batch", "learning_rate", "limits")
    config = {key: config[key] for key in keys}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(config))
    line = ["transfer-check", "--config", "sweep.yaml", "--steps", "2", "--seeds", "1"]
    assert main([*line, "--figure", "transfer.svg", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sizes"] == [8, 12, 24, 32]
    assert [layer["name"] for layer in found["layers"]] == ["layers.0", "layers.2", "output"]
    assert found["rates"] == [0.01] * 4
    assert (tmp_path / "transfer.svg").exists()
    assert main([*line, "--sizes", "8", "40"]) == 0
    text = capsys.readouterr().out
    assert "layers.0" in text
    assert "power" in text
    script = {"name": "own", "trainer": "train.py", "counts": {"table": {8: {}}}, "budgets": [1e6]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**script, "sizes": [8]}))
    for options, message in (
        (["--figure", "transfer.jpg"], "--figure: transfer.jpg; allowed: a name that ends in svg"),
        (["--steps", "0"], "--steps: 0; allowed: 1 or more"),
        (["--sizes", "8"], "--sizes: 1 sizes to try"),
        (["--config", "own.yaml"], "own.yaml: trainer: the layers of the model are not known here"),
    ):
        assert main([*line, *options]) == 2
        assert message in capsys.readouterr().err
