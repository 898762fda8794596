"""The memory of a step: known numbers, and what torch's allocator hands out on a CPU."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from accelerate.utils import convert_to_fp32
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import TensorDataset

from flops_fit.data import as_data
from flops_fit.examples.gpt_large import GPT
from flops_fit.loss import cross_entropy
from flops_fit.plan.costs import Costs
from flops_fit.plan.items import measure_items
from flops_fit.plan.peak_memory import ITEMS, LiveBytes, Manner, _AsTrained, step_bytes, with_memory
from flops_fit.sweep import Experiment

ITEM = torch.randn(ITEMS, 8), torch.randint(0, 4, (ITEMS,))
SCALARS = 8  # the loss, and the gradient with which the backward pass begins


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))


@pytest.mark.parametrize(
    ("precision", "per_item"),
    [
        # ReLU's backward pass: the item (8 fp32 and its label), ReLU's output (32), its gradients (2 x 32)
        ("no", 4 * 8 + 8 + 4 * 32 + 2 * 4 * 32),
        # The same in 16 bits, and the copy of the item that the first product keeps
        ("bf16", 4 * 8 + 8 + 2 * 8 + 2 * 32 + 2 * 2 * 32),
        ("fp16", 4 * 8 + 8 + 2 * 8 + 2 * 32 + 2 * 2 * 32),
    ],
)
def test_the_most_that_a_step_takes_is_known_to_the_byte(precision, per_item):
    taken = step_bytes(mlp, ITEM, ITEMS, F.cross_entropy, Manner(precision))
    assert taken.per_item * ITEMS == ITEMS * per_item + SCALARS


def test_weights_in_16_bits_do_not_grow_with_the_batch():
    """At the loss all weights of the second product are there in 16 bits, whatever the batch."""
    wide = partial(nn.Sequential, nn.Linear(8, 16), nn.Linear(16, 1000))
    small, large = (
        step_bytes(
            wide,
            (torch.randn(items, 8), torch.randint(0, 1000, (items,))),
            items,
            F.cross_entropy,
            Manner("bf16"),
        )
        for items in (64, 128)
    )
    assert small.fixed == large.fixed == 2 * 16 * 1000
    # The fp32 outputs are gone: log-softmax and two gradients of it are left, in the 1000 classes
    expected = 4 * 8 + 8 + 2 * 8 + 2 * 16 + 3 * 4 * 1000
    assert large.per_item == pytest.approx(expected, rel=1e-4)
    assert small.per_item == pytest.approx(expected, rel=1e-4)


def text(vocab: int, length: int, items: int) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(0, vocab, (items, length + 1))
    return tokens[:, :-1], tokens[:, 1:]


def handed_out(build, batch, loss_fn, manner: Manner) -> int:
    """The most that torch's allocator has handed out in a step whose gradients are there already."""
    model = build().train()
    if manner.checkpointing:
        model.set_activation_checkpointing(True)
    half = manner.precision != "no"

    def outputs() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            made = model(batch[0])
        return convert_to_fp32(made) if half else made

    loss_fn(outputs(), batch[1]).backward()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        loss_fn(outputs(), batch[1]).backward()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most + sum(tensor.untyped_storage().nbytes() for tensor in batch)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_gpt_takes_what_torch_hands_out(precision, checkpointing):
    build = partial(GPT, 4, vocab_size=256, seq_len=128, aspect=32, head_dim=32)
    batch, manner = text(256, 128, 8), Manner(precision, checkpointing=checkpointing)
    taken = step_bytes(build, batch, 8, cross_entropy, manner)
    measured = handed_out(build, batch, cross_entropy, manner)
    assert 8 * taken.per_item + taken.fixed == pytest.approx(measured, rel=0.01)


def test_16_bits_and_recomputation_need_less_and_a_gpu_more_for_what_it_holds_in_fp32():
    def normed() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 64), nn.LayerNorm(64), nn.Linear(64, 4))

    build = partial(GPT, 4, vocab_size=256, seq_len=128, aspect=32, head_dim=32)

    def per_item(manner: Manner) -> float:
        return step_bytes(build, text(256, 128, 4), 4, cross_entropy, manner).per_item

    full = per_item(Manner())
    assert per_item(Manner("bf16")) < 0.75 * full
    assert per_item(Manner("bf16", checkpointing=True)) < 0.5 * full
    cpu, gpu, whole = (
        step_bytes(normed, ITEM, ITEMS, F.cross_entropy, manner).per_item
        for manner in (Manner("bf16"), Manner("bf16", gpu=True), Manner(gpu=True))
    )
    assert cpu < gpu < whole


FUNCTIONS = {
    "linear": lambda x, w: F.linear(x, w),
    "matmul": lambda x, w: x @ w,
    "einsum": lambda x, w: torch.einsum("ij,jk->ik", x, w),
    "attention": lambda x, w: F.scaled_dot_product_attention(x[None], w[None], w[None]),
    "softmax": lambda x, w: F.linear(x, w).softmax(-1),
    "layer_norm": lambda x, w: F.layer_norm(F.linear(x, w), (8,)),
    "gelu": lambda x, w: F.gelu(F.linear(x, w)),
    "add": lambda x, w: F.linear(x, w) + x,
    "sum of halves": lambda x, w: F.linear(x, w) + F.linear(w, x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_types_are_those_of_autocast(name):
    x, w = torch.randn(8, 8), torch.randn(8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        real = FUNCTIONS[name](x, w)
    x, w = (tensor.detach().to("meta") for tensor in (x, w))
    made = {}
    for gpu in (False, True):
        with _AsTrained(Manner("bf16", gpu), LiveBytes(None)):
            made[gpu] = FUNCTIONS[name](x, w)
    assert (made[False].dtype, made[False].shape) == (real.dtype, real.shape)
    held = {"softmax": torch.float32, "layer_norm": torch.float32}  # on a GPU, by ATen's lists
    assert made[True].dtype == held.get(name, real.dtype)


def experiments_of(costs: Costs, batch_items: int) -> list[Experiment]:
    count = costs.in_batch(4, batch_items)
    return [Experiment("a", 1e9, 4, 1, 1000, batch_items=batch_items, count=count)]


class Encoder(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layer = nn.Linear(6, width)

    def forward(self, x):
        return self.layer(x)


def info_nce(outputs, targets):
    return F.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs), device=outputs.device))


POINTS = TensorDataset(torch.randn(600, 6), torch.randint(0, 4, (600,)))
EVALUATION = {"tokens": 100, "batch_items": 32}


def costs_of(model, loss) -> Costs:
    data = as_data((POINTS, POINTS))
    return Costs(model, "width", {}, loss, data.train[0], measure_items(data, loss), data)


def test_a_plan_gets_the_memory_of_training_and_of_a_batch_of_the_evaluation():
    costs = costs_of(Encoder, cross_entropy)
    (planned,) = with_memory(experiments_of(costs, 64), costs, Manner("bf16"), EVALUATION)
    taken = step_bytes(
        partial(Encoder, 4),
        (torch.randn(ITEMS, 6), torch.randint(0, 4, (ITEMS,))),
        ITEMS,
        cross_entropy,
        Manner("bf16"),
    )
    assert planned.count.activation_bytes == taken.per_item
    assert planned.count.evaluation_bytes == 32 * taken.evaluated_item + taken.evaluated_fixed
    assert taken.evaluated_item > 0
    few = EVALUATION | {"tokens": 5}
    (planned,) = with_memory(experiments_of(costs, 64), costs, Manner("bf16"), few)
    assert planned.count.evaluation_bytes == 5 * taken.evaluated_item + taken.evaluated_fixed


def test_a_loss_over_the_items_of_a_batch_takes_what_the_planned_batch_does():
    costs = costs_of(Encoder, info_nce)
    (planned,) = with_memory(experiments_of(costs, 512), costs, Manner(), EVALUATION)
    assert 3 * 4 * 512 < planned.count.activation_bytes < 4 * 4 * 512  # rows of 512 scores


def test_a_model_that_does_not_run_on_the_meta_device_keeps_what_was_counted():
    class Reads(Encoder):
        def forward(self, x):
            return super().forward(x) * float(x.abs().sum() > 0)

    costs = costs_of(Reads, cross_entropy)
    planned = experiments_of(costs, 64)
    assert planned[0].count.activation_bytes > 0
    assert with_memory(planned, costs, Manner("bf16"), EVALUATION) == planned
    assert replace(planned[0].count, activation_bytes=0).fixed_bytes == 0
