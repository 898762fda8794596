"""Costs that depend on the batch, and models that draw at random when they are evaluated."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, TensorDataset

from flops_fit.api import find_optimal
from flops_fit.data import as_data
from flops_fit.loss import cross_entropy
from flops_fit.plan.costs import Costs
from flops_fit.plan.items import TOLERANCE, measure_items
from flops_fit.plan.one_pass import draws_when_evaluated

FEATURES, CLASSES = 6, 5
POINTS = TensorDataset(torch.randn(400, FEATURES), torch.randint(0, CLASSES, (400,)))


def costs_of(model, data, loss, **kwargs):
    data = as_data((data, data))
    return Costs(model, "width", kwargs, loss, data.train[0], measure_items(data, loss), data)


class Encoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(FEATURES, width)

    def forward(self, x):
        return self.layer(x)


def info_nce(outputs, targets):
    """Each item is told from all others of its batch: B x B products of width d."""
    return F.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs), device=outputs.device))


def pairwise(outputs, targets):
    """A margin between every pair of items."""
    return torch.relu(1 + outputs @ outputs.detach().T).mean()


class CrossCovariance(nn.Module):
    """Attention between the items of a batch, in the model."""

    def __init__(self, width):
        super().__init__()
        self.layer, self.head = nn.Linear(FEATURES, width), nn.Linear(width, CLASSES)

    def forward(self, x):
        x = self.layer(x)
        return self.head(torch.softmax(x @ x.T, 1) @ x)


class Merged(nn.Module):
    """Its weight is a product of two, computed once a batch."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = (
            nn.Parameter(torch.randn(*s)) for s in ((CLASSES, width), (width, FEATURES))
        )

    def forward(self, x):
        return F.linear(x, self.a @ self.b)


@pytest.mark.parametrize(
    ("model", "loss", "per_item"),
    [  # FLOPs of an item in a batch of B, at width d
        (Encoder, info_nce, lambda B, d: 4 * FEATURES * d + 6 * B * d),
        (Encoder, pairwise, lambda B, d: 4 * FEATURES * d + 4 * B * d),
        (
            CrossCovariance,
            cross_entropy,
            lambda B, d: 4 * FEATURES * d + 6 * d * CLASSES + 2 * 6 * B * d,
        ),
        (
            Merged,
            cross_entropy,
            lambda B, d: 4 * FEATURES * CLASSES + 6 * CLASSES * FEATURES * d / B,
        ),
    ],
)
def test_a_cost_that_depends_on_the_batch_is_that_of_the_planned_batch(model, loss, per_item):
    costs = costs_of(model, POINTS, loss)
    for batch in (16, 64, 256):
        for width in (4, 32):
            assert costs.in_batch(width, batch).flops_per_token == per_item(batch, width)
    assert costs.of([4])[4].flops_per_token == per_item(2, 4)
    assert any("depends on the batch" in warning for warning in costs.warnings())


def test_budgets_pay_for_the_planned_batch():
    """Counted at a batch of 2, the exponent of the cost in N would be another."""
    plan = find_optimal(
        Encoder,
        "width",
        {},
        (POINTS, POINTS),
        info_nce,
        [1e9],
        train=False,
        sizes=[8, 128],
        convention="counted",
        batch_size=128,
    )
    for experiment in plan.experiments:
        width = experiment.size_param_value
        assert experiment.count.flops_per_token == 4 * FEATURES * width + 6 * 128 * width
        assert experiment.flops_counted == pytest.approx(1e9, rel=0.02)
    (warning,) = plan.warnings
    assert "no mean over items" in warning


def test_a_loss_over_items_is_counted_once():
    class Counted(Encoder):
        built = 0

        def __init__(self, width):
            super().__init__(width)
            Counted.built += 1

    costs = costs_of(Counted, POINTS, cross_entropy)
    assert {costs.in_batch(8, batch).flops_per_token for batch in (2, 8, 64)} == {4 * FEATURES * 8}
    assert Counted.built == 2  # the count, and once more to see whether 4 items cost twice as much
    assert costs.warnings() == []


class Sentences(Dataset):
    def __init__(self, longest=32, seed=0):
        self.lengths = torch.randint(
            4, longest + 1, (400,), generator=torch.Generator().manual_seed(seed)
        )

    def __len__(self):
        return 400

    def __getitem__(self, i):
        x = torch.ones(int(self.lengths[i]), dtype=torch.long)
        return x, x


def pad(items):
    inputs = pad_sequence([x for x, _ in items], batch_first=True)
    return inputs, inputs.masked_fill(inputs == 0, -100)


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embedding, self.head = nn.Embedding(CLASSES, width), nn.Linear(width, CLASSES)

    def forward(self, tokens):
        x = self.embedding(tokens)
        return self.head(F.scaled_dot_product_attention(x, x, x))


class Knows(Attention):
    """A model that knows its cost, per target element."""

    def flops_per_token(self):
        return 100.0


def test_attention_over_padded_sentences_pays_the_square_of_what_the_batch_is_padded_to():
    loader = DataLoader(Sentences(), collate_fn=pad)
    costs = costs_of(Attention, loader, cross_entropy)
    kept = Sentences().lengths.double().mean().item()
    count = costs.in_batch(8, 200)  # practically every batch of 200 holds one of the longest
    expected = 32 * (6 * 8 * CLASSES + 12 * 32 * 8)
    assert count.flops_per_token == pytest.approx(expected / kept, rel=1e-3)
    assert count.flops_per_position == pytest.approx(expected / 32, rel=1e-3)
    small = costs.in_batch(8, 4)
    assert small.flops_per_token < 0.9 * count.flops_per_token


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_in_batches_of_one_item_it_is_the_mean_over_all_lengths(seed):
    data = Sentences(seed=seed)
    lengths = data.lengths.double()
    costs = costs_of(Attention, DataLoader(data, collate_fn=pad), cross_entropy)
    expected = (lengths * (6 * 8 * CLASSES + 12 * lengths * 8)).sum() / lengths.sum()
    assert costs.in_batch(8, 1).flops_per_token == pytest.approx(expected.item(), rel=TOLERANCE)


@pytest.mark.parametrize(
    ("data", "per_kept"),
    [
        (
            TensorDataset(
                torch.ones(99, 8, dtype=torch.long),
                torch.tensor([1, 1, -100, -100, -100, -100, -100, -100]).repeat(99, 1),
            ),
            400,
        ),
        (
            DataLoader(Sentences(), collate_fn=pad),
            100 * 32 / Sentences().lengths.double().mean().item(),
        ),
    ],
    ids=["masked", "padded"],
)
def test_a_models_own_flops_are_paid_for_ignored_targets_too(data, per_kept):
    costs = costs_of(Knows, data, cross_entropy)
    count = costs.in_batch(8, 99)
    assert count.method == "model"
    assert count.flops_per_token == pytest.approx(per_kept, rel=0.01)


class Noisy(Encoder):
    """Diffusion: noise is drawn in training and in evaluation."""

    def forward(self, x):
        return super().forward(x + torch.randn_like(x))


class Dropped(Encoder):
    def forward(self, x):
        q = super().forward(F.dropout(x, 0.5, self.training))[:, None]
        return F.scaled_dot_product_attention(q, q, q, dropout_p=0.5 * self.training)[:, 0]


class OnCPU(Noisy):
    def forward(self, x):
        return super().forward(x) * float(x.abs().max() > 0)


def noisy_loss(outputs, targets):
    return F.mse_loss(outputs, torch.rand_like(outputs))


@pytest.mark.parametrize(
    ("model", "loss", "draws"),
    [
        (Encoder, cross_entropy, False),
        (Dropped, cross_entropy, False),
        (Noisy, cross_entropy, True),
        (OnCPU, cross_entropy, True),
        (Encoder, noisy_loss, True),
    ],
)
def test_what_draws_at_random_when_it_is_evaluated_is_seen(model, loss, draws):
    batch = POINTS[:4]
    assert draws_when_evaluated(lambda: model(8), batch, loss, ("meta", "cpu")) is draws
