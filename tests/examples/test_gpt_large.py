"""The GPT for GPUs: its counts by hand, its rates over width and depth, and what GPUs ask of it."""

import math

import pytest
import torch

from flops_fit.examples.gpt_large import GPT, optimizer
from flops_fit.examples.loss import cross_entropy

V, T = 64, 32


def tiny(depth: int = 2, aspect: int = 16, **options) -> GPT:
    torch.manual_seed(0)
    return GPT(depth, aspect=aspect, head_dim=16, vocab_size=V, seq_len=T, **options)


def tokens(seed: int, batch: int = 8) -> torch.Tensor:
    return torch.randint(V, (batch, T + 1), generator=torch.Generator().manual_seed(seed))


def trained(model: GPT, steps: int = 10, lr: float = 0.004) -> tuple[GPT, list[float]]:
    """The model after some steps on one batch, and its losses on the way."""
    x, adamw, losses = tokens(0), optimizer(model, lr), []
    for _ in range(steps):
        loss = cross_entropy(model(x[:, :-1]), x[:, 1:])
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        adamw.step()
    return model, losses


def scales(model: GPT) -> torch.Tensor:
    """Root mean squares of what the model's blocks add to the stream, and of its logits."""
    found = []
    hook = lambda block, inputs, output: found.append(output - inputs[0])  # noqa: E731
    handles = [block.register_forward_hook(hook) for block in model.blocks]
    with torch.no_grad():
        logits = model(tokens(0)[:, :-1])
    for handle in handles:
        handle.remove()
    added = torch.stack(found).sum(0)
    return torch.stack([added.square().mean().sqrt(), logits.square().mean().sqrt()])


def test_one_size_sets_width_and_depth_and_parameters_are_as_by_hand():
    with torch.device("meta"):
        model = GPT(8)
    assert len(model.blocks) == 8
    assert model.head.in_features == 512
    assert model.num_params() == 12 * 8 * 512**2 + 50_304 * 512
    with pytest.raises(ValueError, match="width = 8 x 3: no multiple of head_dim = 16"):
        tiny(3, aspect=8)


def test_the_first_loss_is_that_of_a_uniform_guess():
    assert trained(tiny(), steps=1)[1] == [pytest.approx(math.log(V))]


def test_more_tokens_than_seq_len_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match=rf"{T + 1} tokens.*seq_len is {T}"):
        tiny()(tokens(0))


@pytest.mark.seconds
def test_after_some_steps_activations_are_as_large_at_any_width_and_depth():
    """The coordinate check of muP (Yang et al. 2022, appendix D.1)."""
    small, wide, deep = (
        scales(trained(tiny(depth, aspect))[0]) for depth, aspect in ((4, 16), (4, 64), (16, 16))
    )
    assert (small > 0.05).all()  # something was learnt
    assert torch.allclose(wide / small, torch.ones(2), atol=0.4)
    assert torch.allclose(deep / small, torch.ones(2), atol=0.6)


def test_without_rates_that_fall_with_width_the_same_check_fails():
    model = tiny(4, 64)
    adamw = optimizer(model, 0.004)
    adamw.param_groups[1]["lr"] = optimizer(tiny(4, 16), 0.004).param_groups[1]["lr"]
    x = tokens(0)
    for _ in range(10):
        model.zero_grad()
        cross_entropy(model(x[:, :-1]), x[:, 1:]).backward()
        adamw.step()
    assert (scales(model) / scales(trained(tiny(4, 16))[0])).max() > 1.6


def test_rates_inside_the_blocks_fall_with_width_and_their_decay_does_not():
    for depth in (2, 4):
        ends, inside = optimizer(tiny(depth), 0.004).param_groups
        assert ends["lr"] == 0.004
        assert ends["weight_decay"] == 0
        assert inside["lr"] == pytest.approx(0.004 * 256 / (16 * depth))
        assert inside["lr"] * inside["weight_decay"] == pytest.approx(0.0004)
        assert len(ends["params"]) + len(inside["params"]) == len(list(tiny(depth).parameters()))


def test_recomputed_activations_give_the_same_gradients():
    gradients = []
    for recompute in (False, True):
        model, _ = trained(tiny(), steps=2)
        model.set_activation_checkpointing(recompute)
        model.zero_grad()
        cross_entropy(model(tokens(1)[:, :-1]), tokens(1)[:, 1:]).backward()
        gradients.append([p.grad for p in model.parameters()])
    for stored, recomputed in zip(*gradients, strict=True):
        assert torch.equal(stored, recomputed)


def test_in_bf16_the_stream_stays_in_fp32_and_the_loss_nearly_the_same():
    model, _ = trained(tiny())
    streams = []
    model.blocks[0].register_forward_hook(lambda block, inputs, output: streams.append(output))
    x = tokens(0)
    with torch.no_grad():
        exact = cross_entropy(model(x[:, :-1]), x[:, 1:])
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(x[:, :-1])
    assert logits.dtype == torch.bfloat16
    assert streams[1].dtype == torch.float32
    assert cross_entropy(logits.float(), x[:, 1:]) == pytest.approx(exact.item(), rel=0.01)


def test_it_compiles_as_one_graph():
    model, _ = trained(tiny(), steps=1)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x = tokens(0)[:, :-1]
    assert torch.allclose(compiled(x), model(x))
