"""The example GPT, its optimisers and its loss keep the properties that the sweep relies on."""

import math

import pytest
import torch
from torch import nn

from flops_fit.examples.gpt import GPT, head_dim_for, norm, optimizer, rotary_table, rotate
from flops_fit.examples.loss import cross_entropy


def tokens(batch: int = 4, length: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randint(128, (batch, length), generator=torch.Generator().manual_seed(seed))


def trained(d_model: int, steps: int = 5, **options) -> tuple[GPT, list[float]]:
    """A model that has left its all-zero outputs behind, and its losses on the way."""
    torch.manual_seed(0)
    model, x = GPT(d_model, **options), tokens(length=65)
    optimizers = optimizer(model, lr=0.02)
    losses = []
    for _ in range(steps):
        loss = cross_entropy(model(x[:, :-1]), x[:, 1:])
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        for each in optimizers:
            each.step()
    return model, losses


class TestModel:
    @pytest.mark.parametrize("d_model", [12, 16, 24, 32, 48, 64, 128])
    def test_num_params_is_matrices_inside_plus_the_head(self, d_model):
        assert GPT(d_model).num_params() == 12 * 2 * d_model**2 + 128 * d_model
        wide = GPT(d_model, n_layers=3, vocab_size=50)
        assert wide.num_params() == 12 * 3 * d_model**2 + 50 * d_model

    def test_num_params_is_every_parameter_but_the_embedding(self):
        model = GPT(32)
        assert model.num_params() == sum(p.numel() for p in model.parameters()) - 128 * 32

    def test_tokens_become_logits_at_any_length_up_to_seq_len(self):
        model = GPT(24, seq_len=16, vocab_size=50)
        for length in (1, 7, 16):
            assert model(torch.zeros(3, length, dtype=torch.int64)).shape == (3, length, 50)

    def test_more_tokens_than_seq_len_are_refused_with_both_numbers(self):
        with pytest.raises(ValueError, match=r"17 tokens.*seq_len is 16"):
            GPT(16, seq_len=16)(torch.zeros(1, 17, dtype=torch.int64))

    def test_a_later_token_leaves_earlier_logits_unchanged(self):
        model, _ = trained(32)
        x = tokens(batch=1)
        changed = x.clone()
        changed[0, 40] = (x[0, 40] + 1) % 128
        before, after = model(x), model(changed)
        assert torch.equal(before[0, :40], after[0, :40])
        assert not torch.allclose(before[0, 40:], after[0, 40:], atol=1e-4)

    def test_attention_reaches_back_to_the_first_token(self):
        model, _ = trained(32)
        x = tokens(batch=1)
        changed = x.clone()
        changed[0, 0] = (x[0, 0] + 1) % 128
        assert (model(x)[0, -1] - model(changed)[0, -1]).abs().max() > 1e-5

    def test_the_order_of_earlier_tokens_matters_to_a_single_layer(self):
        model, _ = trained(32, n_layers=1)  # without positions it would see a set
        x = tokens(batch=1)
        swapped = x[:, [1, 0, *range(2, 64)]]
        assert (model(x)[0, -1] - model(swapped)[0, -1]).abs().max() > 1e-5

    def test_attention_is_a_softmax_over_12_times_the_cosine_of_query_and_key(self):
        model, _ = trained(32)
        attention, x = model.blocks[0].attention, torch.randn(1, 64, 32)
        heads = attention.qkv(x).view(64, 3, 2, 16)  # (T, query or key or value, head, head_dim)
        q, k = (nn.functional.normalize(heads[:, i], dim=-1) for i in (0, 1))
        q, k = (rotate(each, model.cos, model.sin) for each in (q, k))
        scores = 12 * torch.einsum("qhd, khd -> hqk", q, k)
        scores = scores.masked_fill(torch.ones(64, 64).triu(1).bool(), -torch.inf)
        mixed = torch.einsum("hqk, khd -> qhd", scores.softmax(-1), heads[:, 2])
        expected = attention.out(mixed.reshape(1, 64, 32))
        assert torch.allclose(attention(x, model.cos, model.sin), expected, atol=1e-5)

    def test_the_first_loss_is_the_log_of_the_vocabulary(self):
        loss = cross_entropy(GPT(48)(tokens()), tokens(seed=1))
        assert loss.item() == pytest.approx(math.log(128), abs=1e-5)

    def test_blocks_start_as_the_identity(self):
        model = GPT(32)
        x = torch.randn(2, 64, 32)
        assert torch.equal(model.blocks[0](x, model.cos, model.sin), x)

    def test_one_seed_gives_one_model_and_one_curve(self):
        (a, losses), (b, again) = trained(24), trained(24)
        assert losses == again
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))

    def test_a_hundred_billion_parameters_run_on_the_meta_device(self):
        with torch.device("meta"):
            model = GPT(65_536)
            logits = model(torch.zeros(1, 64, dtype=torch.int64))
            cross_entropy(logits, torch.zeros(1, 64, dtype=torch.int64)).backward()
        assert model.num_params() > 1e11
        assert logits.shape == (1, 64, 128)
        assert logits.is_meta
        assert len(optimizer(model, lr=0.02)) == 2

    def test_mixed_precision_stays_close_to_single_precision(self):
        model, _ = trained(32)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(tokens())
        assert (rough - model(tokens())).abs().max() < 0.1


class TestHeads:
    @pytest.mark.parametrize(
        ("d_model", "expected"),
        [(4, 4), (12, 12), (16, 16), (24, 12), (32, 16), (40, 10), (80, 16), (96, 16), (128, 16)],
    )
    def test_head_dim_is_the_largest_even_divisor_up_to_16(self, d_model, expected):
        assert head_dim_for(d_model) == expected
        assert GPT(d_model).blocks[0].attention.head_dim == expected

    @pytest.mark.parametrize("d_model", [1, 22, 34, 37])
    def test_a_width_without_a_fair_head_is_refused(self, d_model):
        with pytest.raises(ValueError, match=f"d_model = {d_model}: .*multiples of 8"):
            GPT(d_model)

    def test_rotation_keeps_lengths_and_makes_scores_depend_on_distance_alone(self):
        torch.manual_seed(0)
        q, k = torch.randn(2, 1, 1, 1, 16)
        cos, sin = rotary_table(64, 16)
        q, k = (rotate(x.expand(1, 64, 1, 16), cos, sin)[0, :, 0] for x in (q, k))
        scores = q @ k.T
        assert torch.allclose(q.norm(dim=-1), q[0].norm().expand(64), rtol=1e-5)
        for distance in (1, 5, 30):
            diagonal = scores.diagonal(distance)
            assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-4)
        assert (scores[0, 0] - scores[0, 30]).abs() > 1e-3

    def test_norm_brings_every_vector_to_the_length_sqrt_d(self):
        x = norm(torch.randn(5, 16) * torch.tensor([1e-2, 1, 10, 1e3, 1e4])[:, None])
        assert torch.allclose(x.norm(dim=-1), torch.full((5,), 4.0), rtol=1e-3)


class TestOptimizer:
    def test_every_parameter_is_trained_by_exactly_one_group(self):
        model = GPT(32, n_layers=3)
        owned = [p for o in optimizer(model, 0.02) for g in o.param_groups for p in g["params"]]
        assert len(owned) == len({id(p) for p in owned}) == len(list(model.parameters()))

    @pytest.mark.parametrize(("d_model", "head"), [(32, 0.04), (64, 0.02), (128, 0.01)])
    def test_rates_are_lr_and_the_heads_is_lr_times_64_over_d(self, d_model, head):
        model = GPT(d_model)
        muon, adamw = optimizer(model, lr=0.02)
        rates = {id(p): g["lr"] for g in adamw.param_groups for p in g["params"]}
        assert [g["lr"] for g in muon.param_groups] == [0.02]
        assert rates == {
            id(model.embedding.weight): 0.02,
            id(model.head.weight): pytest.approx(head),
        }

    def test_all_rates_scale_with_lr(self):
        model = GPT(32)
        one, two = (
            [g["lr"] for o in optimizer(model, lr) for g in o.param_groups] for lr in (0.01, 0.02)
        )
        assert two == pytest.approx([2 * rate for rate in one])

    def test_hyperparameters_are_those_of_the_recipe(self):
        muon, adamw = optimizer(GPT(32), lr=0.02)
        assert isinstance(muon, torch.optim.Muon)
        assert (muon.defaults["momentum"], muon.defaults["weight_decay"]) == (0.95, 0.0)
        assert isinstance(adamw, torch.optim.AdamW)
        assert (adamw.defaults["betas"], adamw.defaults["weight_decay"]) == ((0.9, 0.98), 0.0)

    def test_muon_steps_scale_with_the_root_of_out_over_in(self):
        torch.manual_seed(0)
        model = GPT(64, n_layers=1)
        before = {name: p.detach().clone() for name, p in model.blocks.named_parameters()}
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer(model, lr=0.02)[0].step()
        for name, p in model.blocks.named_parameters():
            out, fan_in = p.shape
            spectral = torch.linalg.matrix_norm(p.detach() - before[name], ord=2).item()
            # Newton-Schulz leaves singular values between about 0.7 and 1.2, not at 1
            assert spectral == pytest.approx(0.02 * max(1, out / fan_in) ** 0.5, rel=0.3), name

    def test_the_loss_falls_on_a_repeated_batch(self):
        _, losses = trained(32, steps=30)
        assert losses[-1] < 0.5 * losses[0]


class TestLoss:
    def test_it_is_the_mean_over_targets_that_are_not_ignored(self):
        torch.manual_seed(0)
        logits, targets = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
        targets[0, 1:3] = cross_entropy.ignore_index
        log_p = logits.log_softmax(-1)
        kept = [
            -log_p[b, t, targets[b, t]] for b in range(2) for t in range(5) if targets[b, t] >= 0
        ]
        assert len(kept) == 8
        assert cross_entropy(logits, targets).item() == pytest.approx(torch.stack(kept).mean())

    def test_images_count_one_target_each(self):
        logits, targets = torch.randn(6, 10), torch.randint(10, (6,))
        expected = nn.functional.cross_entropy(logits, targets)
        assert torch.equal(cross_entropy(logits, targets), expected)

    def test_ignore_index_is_declared_as_minus_100(self):
        assert cross_entropy.ignore_index == -100
