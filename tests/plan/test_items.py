"""What items bring where the loss ignores targets or items differ in length: planned, spent, recorded."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from flops_fit.api import find_optimal
from flops_fit.data import as_data
from flops_fit.errors import FlopsFitError
from flops_fit.loss import cross_entropy
from flops_fit.plan.items import Items, check_items, measure_items, positions_per_item, stated_items
from flops_fit.trainer import TrainingRunner

VOCAB, LENGTH, WIDTH = 16, 12, 8
PER_POSITION = 6 * (WIDTH * WIDTH + WIDTH * VOCAB)  # forward and backward of two matrices


class LM(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(VOCAB, width), nn.Linear(width, width)
        self.head = nn.Linear(width, VOCAB)

    def forward(self, tokens):
        return self.head(torch.relu(self.hidden(self.embedding(tokens))))


class Classifier(LM):
    """One answer for an item however long."""

    def forward(self, tokens):
        return super().forward(tokens).mean(1)


def text(count=600, length=LENGTH, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCAB, (count, length), generator=generator)


def masked(share=0.25):
    """A masked language model: another random share of each item is asked for."""
    x = text()
    chosen = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < share
    return TensorDataset(x, x.masked_fill(~chosen, -100))


def prompted():
    """Instruction tuning: the answer alone is learned, and the first third of each item is given."""
    x = text()
    y = x.clone()
    y[:, : LENGTH // 3] = -100
    return TensorDataset(x, y)


def masked_in_collate(items):
    """As Hugging Face's collators do: the mask is drawn anew for each batch."""
    x = torch.stack([x for x, _ in items])
    return x, x.masked_fill(torch.rand(x.shape) >= 0.25, -100)


def padding_is_zero(outputs, targets):
    return nn.functional.cross_entropy(
        outputs.reshape(-1, VOCAB), targets.reshape(-1), ignore_index=0
    )


padding_is_zero.ignore_index = 0


def padded_with_zero():
    x, lengths = (
        text(),
        torch.randint(2, LENGTH, (600,), generator=torch.Generator().manual_seed(2)),
    )
    x = x.masked_fill(torch.arange(LENGTH) >= lengths[:, None], 0)
    return TensorDataset(x, x)


class Sentences(Dataset):
    """Items of 2 to 40 tokens, the first one short; ``answer``: one target for each instead."""

    def __init__(self, answer=False, count=600):
        self.text, self.answer = text(count, 40), answer
        self.lengths = torch.randint(2, 41, (count,), generator=torch.Generator().manual_seed(3))
        self.lengths[0] = 2

    def __len__(self):
        return len(self.text)

    def __getitem__(self, i):
        x = self.text[i, : int(self.lengths[i])]
        return x, (x[0] if self.answer else x)


class SentenceStream(IterableDataset):
    def __iter__(self):
        sentences = Sentences()
        return (sentences[i] for i in range(len(sentences)))


def pad(items, multiple=1):
    inputs = pad_sequence([x for x, _ in items], batch_first=True)
    if items[0][1].dim() == 0:
        return inputs, torch.stack([y for _, y in items])
    targets = pad_sequence([y for _, y in items], batch_first=True, padding_value=-100)
    more = -inputs.shape[1] % multiple
    return nn.functional.pad(inputs, (0, more)), nn.functional.pad(targets, (0, more), value=-100)


def pad_to_eights(items):
    return pad(items, 8)


def loader(dataset, collate=pad):
    return DataLoader(dataset, batch_size=4, collate_fn=collate)


KINDS = {
    "masked": (masked, LM, cross_entropy),
    "prompted": (prompted, LM, cross_entropy),
    "masked in collate": (
        lambda: loader(TensorDataset(text(), text()), masked_in_collate),
        LM,
        cross_entropy,
    ),
    "padded, own ignore_index": (padded_with_zero, LM, padding_is_zero),
    "sentences": (lambda: loader(Sentences()), LM, cross_entropy),
    "sentences padded to eights": (lambda: loader(Sentences(), pad_to_eights), LM, cross_entropy),
    "sentences with one answer": (
        lambda: loader(Sentences(answer=True)),
        Classifier,
        cross_entropy,
    ),
    "a stream of sentences": (
        lambda: (loader(SentenceStream()), loader(Sentences())),
        LM,
        cross_entropy,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_planned_is_what_is_spent_and_recorded(kind, tmp_path):
    make, model, loss = KINDS[kind]
    seen = []

    class Watched(model):
        def forward(self, tokens):
            if self.training and torch.is_grad_enabled() and not tokens.is_meta:
                seen.append(tokens.numel())
            return super().forward(tokens)

    data, budget = make(), 2.5e7 if model is LM else 5e7
    plan = find_optimal(
        Watched,
        "width",
        {},
        data,
        loss,
        [budget],
        train=False,
        sizes=[WIDTH],
        convention="counted",
        batch_size=8,
    )
    (experiment,) = plan.experiments
    assert experiment.flops_counted == pytest.approx(budget, rel=0.02)
    assert any("input elements on average" in warning for warning in plan.warnings)
    seen.clear()
    (record,) = TrainingRunner(tmp_path).run_sweep_from_plan(
        plan, Watched, "width", {}, data, loss, evaluation_tokens=64
    )
    assert record["tokens_seen"] == experiment.num_tokens  # D is exact, and counts kept targets
    assert abs(record["steps_done"] - experiment.steps) <= max(2, 0.04 * experiment.steps)
    seen = seen[-record["steps_done"] :]  # before come those of the trial
    assert record["input_positions"] == sum(seen)
    per_position = experiment.count.flops_per_position
    assert record["flops_counted"] == per_position * record["input_positions"]
    assert record["flops_expected"] == pytest.approx(experiment.flops_counted)
    assert record["flops_counted"] == pytest.approx(budget, rel=0.06)
    if model is LM:
        assert per_position == pytest.approx(PER_POSITION, rel=1e-6)


def test_an_ordinary_sweep_says_and_records_nothing_of_this(tmp_path):
    data = TensorDataset(text(), text())
    plan = find_optimal(
        LM,
        "width",
        {},
        data,
        cross_entropy,
        [1e7],
        train=False,
        sizes=[WIDTH],
        convention="counted",
        batch_size=8,
    )
    (experiment,) = plan.experiments
    assert plan.warnings == []
    assert not {"flops_per_position", "expected_items"} & experiment.to_dict().keys()
    assert isinstance(experiment.tokens_per_item, int)
    (record,) = TrainingRunner(tmp_path).run_sweep_from_plan(
        plan, LM, "width", {}, data, cross_entropy, evaluation_tokens=64
    )
    assert not {"flops_per_position", "input_positions", "flops_expected"} & record.keys()
    assert "expected_items" not in record["identity"]
    assert record["flops_counted"] == PER_POSITION * record["tokens_seen"]


def test_means_are_those_of_the_data_and_the_same_each_time():
    data = as_data((masked(), masked()))
    torch.manual_seed(7)
    state = torch.get_rng_state()
    items = measure_items(data, cross_entropy)
    kept = [int((y != -100).sum()) for _, y in data.train]
    assert items.tokens == pytest.approx(np.mean(kept))
    assert (items.positions, items.looked_at, items.unique) == (LENGTH, 600, 600)
    assert torch.equal(torch.get_rng_state(), state)
    drawn = as_data(loader(TensorDataset(text(), text()), masked_in_collate))
    assert measure_items(drawn, cross_entropy) == measure_items(drawn, cross_entropy)


def test_many_items_are_looked_at_until_the_mean_is_known_and_no_more():
    class Long(Dataset):
        reads = 0

        def __len__(self):
            return 10**9

        def __getitem__(self, i):
            Long.reads += 1
            x = torch.ones(8, dtype=torch.long)
            return x, torch.where(torch.arange(8) < 1 + i % 7, x, -100)

    items = measure_items(as_data((Long(), masked())), cross_entropy)
    assert items.tokens == pytest.approx(4, rel=0.02)
    assert items.looked_at < 20_000
    assert Long.reads < 60_000


def test_the_positions_of_an_item_grow_with_its_batch():
    data = as_data((loader(Sentences()), loader(Sentences())))
    alone, four, all_of_them = (positions_per_item(data, n) for n in (1, 4, 600))
    lengths = Sentences().lengths.double()
    assert alone == pytest.approx(lengths.mean().item(), rel=0.1)
    assert alone < four < all_of_them == 40


def test_items_that_make_no_batch_or_keep_no_target_are_refused():
    with pytest.raises(FlopsFitError, match=r"items make no batch: .*collate_fn pads"):
        measure_items(as_data((Sentences(), Sentences())), cross_entropy)
    nothing = TensorDataset(text(), torch.full((600, LENGTH), -100))
    with pytest.raises(FlopsFitError, match="ignores every target of 600 items"):
        measure_items(as_data((nothing, nothing)), cross_entropy)


def test_data_that_no_seed_makes_the_same_are_named():
    class Unseeded(Dataset):
        def __len__(self):
            return 600

        def __getitem__(self, i):
            x = torch.ones(64, dtype=torch.long)
            return x, x.masked_fill(
                torch.from_numpy(np.random.default_rng().random(64) > 0.5), -100
            )

    items = measure_items(as_data((Unseeded(), masked())), cross_entropy)
    assert not items.repeatable
    assert "state dataset.per_item" in items.warnings()[-1]


@pytest.mark.parametrize(
    ("planned", "refused"),
    [
        (Items(3.0, 12), None),
        (Items(3.04, 12), None),
        (Items(12, 12), r"brings 3\.0\d+ kept targets on average.*made with 12.*{targets: 3\.0"),
        (Items(3.0, 24), r"brings 12 input elements.*made with 24.*{positions: 12}"),
    ],
)
def test_the_check_holds_the_plan_against_the_data(planned, refused):
    data = as_data((masked(), masked()))
    if refused is None:
        assert check_items(data, cross_entropy, planned, 8).unique == 600
        return
    with pytest.raises(FlopsFitError, match=refused):
        check_items(data, cross_entropy, planned, 8)


def test_what_is_stated_completes_the_example():
    example = text(1)[0], text(1)[0]
    assert stated_items({}, example, cross_entropy) == Items(LENGTH, LENGTH)
    stated = stated_items({"targets": 1.8, "positions": None}, example, cross_entropy)
    assert stated == Items(1.8, LENGTH, ignored=True)
    longer = stated_items({"targets": None, "positions": 20}, example, cross_entropy)
    assert longer == Items(LENGTH, 20, uneven=True)


def test_a_stream_that_ends_is_counted_and_one_that_reads_once_is_left_to_the_training(tmp_path):
    finite = as_data((loader(SentenceStream()), loader(Sentences())))
    assert check_items(finite, cross_entropy, Items(21.1, 0), 4).unique == 600
    x = text(100)
    generator = ((x[i], x[i]) for i in range(100))
    find_optimal(
        LM,
        "width",
        {},
        (generator, TensorDataset(x, x)),
        cross_entropy,
        [1e6],
        train=False,
        sizes=[WIDTH],
        convention="counted",
        batch_size=1,
    )
    assert len(list(generator)) == 99  # as before: one item is looked at
