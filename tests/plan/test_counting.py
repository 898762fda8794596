"""Parameters and FLOPs of models, against figures derived by hand in each test.

A product with n weights costs 2n FLOPs per position forward, 2n for the gradient of the weights
and 2n for that of its input where one is needed: 6n, or 4n in a first layer that reads plain data.
"""

import contextlib
import itertools
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry, register_flop_formula

from flops_fit.errors import FlopsFitError
from flops_fit.examples.gpt import GPT
from flops_fit.plan import counting
from flops_fit.plan.counting import count_model, count_sizes, ratio_warnings
from flops_fit.plan.flop_tracker import FORMULAS

V, T, d = 60, 32, 16  # vocabulary, sequence length, width; no two products of them are equal
random = torch.Generator().manual_seed(0)
TEXT = tuple(torch.randint(V, (2, T), generator=random))
IMAGE = (torch.randn(3, 8, 8, generator=random), torch.tensor(1))


def token_loss(outputs, targets):
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def count_text(build):
    return count_model(build, TEXT, token_loss, T)


def count_image(build):
    return count_model(build, IMAGE, F.cross_entropy, 1)


class LanguageModel(nn.Module):
    """Embedding, a body that keeps (B, T, width), and an output head."""

    def __init__(self, body: nn.Module, width: int = d, tied: bool = False):
        super().__init__()
        self.embedding = nn.Embedding(V, width)
        self.body = body
        self.head = nn.Linear(width, V, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.body(self.embedding(x)))


class Attention(nn.Module):
    """Causal self-attention with one head, by torch's choice of kernel or by our own."""

    def __init__(self, width: int = d, backend: SDPBackend | None = None):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.kernel = (lambda: sdpa_kernel(backend)) if backend else contextlib.nullcontext

    def forward(self, x):
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, dim=-1)
        with self.kernel():
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(y.squeeze(1))


class MLP(nn.Module):
    def __init__(self, width: int = d):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


def gpt(width: int = d, depth: int = 1, **kwargs) -> nn.Module:
    blocks = (nn.Sequential(Attention(width), MLP(width)) for _ in range(depth))
    return LanguageModel(nn.Sequential(*blocks), width, **kwargs)


def needs_values(build):
    """The same model, by a constructor that reads a tensor's value: none on the meta device."""

    def constructor(**kwargs):
        assert torch.ones(1).item() == 1
        return build(**kwargs)

    return constructor


# ------------------------------------------------------------------------- dense models


@pytest.mark.parametrize("constructor", [gpt, needs_values(gpt)], ids=["meta", "cpu"])
def test_a_gpt_block_with_causal_attention(constructor):
    count = count_text(constructor)
    weights = 12 * d * d  # qkv 3, out 1, up 4, down 4
    assert count.params_nonembedding == weights
    assert count.params == weights + V * d
    assert count.params_total == weights + 2 * V * d + 2 * d + 5 * d  # norm, biases
    assert count.num_params == count.params_total
    attention = 3 * 2 * 2 * T * d  # two products per position, forward and twice backward
    assert count.flops_per_token == 6 * (weights + V * d) + attention
    assert count.method == ("meta" if constructor is gpt else "cpu")


@pytest.mark.parametrize("width", [12, 32, 128])
def test_the_example_gpt_needs_no_memory(width):
    item = (torch.zeros(64, dtype=torch.long, device="meta"),) * 2
    count = count_sizes(GPT, "d_model", [width], {}, item, token_loss, 64)[width]
    assert count.method == "meta"
    assert count.num_params == count.params == 24 * width**2 + 128 * width
    assert count.params_nonembedding == 24 * width**2
    assert count.params_total == count.params + 128 * width
    assert count.flops_per_token == 6 * count.params + 2 * 12 * 64 * width


def test_operators_of_many_kinds_run_on_the_meta_device():
    class Medley(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(d, d, bias=False)

        def forward(self, x):
            x = x.roll(1, dims=1) + x.flip(1).cumsum(1) / (1 + torch.arange(T)[:, None])
            x = torch.where(x > 0, x, x.clamp(min=-1)).masked_fill(x.isnan(), 0.0)
            x = F.dropout(F.rms_norm(x, (d,)), 0.1) * x.std(-1, keepdim=True, correction=0)
            x = F.pad(x, (0, 2))[..., :d].unfold(1, 2, 2).mean(-1).repeat_interleave(2, dim=1)
            x = torch.cat((x.sort(dim=-1).values, x.logsumexp(-1, keepdim=True)), dim=-1)[..., :d]
            low, high = F.interpolate(x.mT, scale_factor=2).mT.chunk(2, dim=1)
            return self.linear(torch.fft.irfft(torch.fft.rfft(low), n=d) + high.clone().exp_())

    count = count_text(lambda: LanguageModel(Medley()))
    assert count.method == "meta"
    assert count.flops_per_token == 6 * (d * d + V * d)


@pytest.mark.parametrize("backend", [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
@pytest.mark.parametrize("wrap", [lambda build: build, needs_values], ids=["meta", "cpu"])
def test_attention_costs_the_same_by_any_kernel_on_any_device(backend, wrap):
    count = count_text(wrap(lambda: LanguageModel(Attention(backend=backend))))
    assert count.flops_per_token == 6 * (4 * d * d + V * d) + 12 * T * d


def test_attention_by_torchs_choice_is_counted_by_its_products(monkeypatch):
    for operator in [op for op in FORMULAS if "attention" in str(op)]:
        monkeypatch.delitem(FORMULAS, operator)
    count = count_text(needs_values(lambda: LanguageModel(Attention())))
    assert count.flops_per_token == 6 * (4 * d * d + V * d) + 12 * T * d


def test_grouped_queries_save_weights_but_no_attention_flops():
    class GroupedQueries(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.kv = nn.Linear(d, d, bias=False), nn.Linear(d, d // 2, bias=False)

        def forward(self, x):
            q = self.q(x).view(*x.shape[:2], 4, 4).transpose(1, 2)
            kv = self.kv(x).view(*x.shape[:2], 2, 4).transpose(1, 2)
            y = F.scaled_dot_product_attention(q, kv, kv, is_causal=True, enable_gqa=True)
            return y.transpose(1, 2).flatten(2)

    count = count_text(lambda: LanguageModel(GroupedQueries()))
    assert count.params == d * d + d * d // 2 + V * d
    assert count.flops_per_token == 6 * count.params + 12 * T * d


def test_torchs_own_encoder_layer():
    layer = nn.TransformerEncoderLayer
    count = count_text(lambda: LanguageModel(layer(d, 4, 4 * d, batch_first=True)))
    assert count.params_nonembedding == 12 * d * d
    assert count.flops_per_token == 6 * (12 * d * d + V * d) + 12 * T * d


@settings(max_examples=20)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=5))
def test_an_mlp_pays_six_per_weight_and_four_in_its_first_layer(widths):
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    example = (torch.zeros(widths[0]), torch.zeros(widths[-1]))
    count = count_model(lambda: nn.Sequential(*layers).to("meta"), example, F.mse_loss, 1)
    weights = [a * b for a, b in itertools.pairwise(widths)]
    assert count.params == count.params_nonembedding == sum(weights)
    assert count.params_total == sum(weights) + sum(widths[1:])
    assert count.flops_per_token == 4 * weights[0] + 6 * sum(weights[1:])


@pytest.mark.parametrize("wrap", [lambda build: build, needs_values], ids=["meta", "cpu"])
def test_a_cnn_with_depthwise_and_strided_convolutions(wrap):
    def cnn():
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),  # 216 weights, 64 positions
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),  # 72, 64
            nn.Conv2d(8, 16, 1, stride=2, bias=False),  # 128, 16
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 10),  # 160, 1
        )

    count = count_image(wrap(cnn))
    assert count.params == count.params_nonembedding == 216 + 72 + 128 + 160
    assert count.flops_per_token == 4 * 216 * 64 + 6 * (72 * 64 + 128 * 16 + 160)
    assert "6 N D is not this model's compute" in ratio_warnings({8: count}, "width")[0]


def test_a_transposed_convolution_pays_for_each_input_position():
    def decoder():
        up = nn.ConvTranspose2d(3, 8, 2, stride=2, bias=False)
        return nn.Sequential(up, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))

    assert count_image(decoder).flops_per_token == 4 * 3 * 8 * 4 * 64 + 6 * 80


def test_batch_norm_on_vectors_can_be_counted():
    def net():
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.BatchNorm1d(5), nn.Linear(5, 10))

    assert count_image(net).flops_per_token == 4 * 192 * 5 + 6 * 50


@pytest.mark.parametrize("wrap", [lambda build: build, needs_values], ids=["meta", "cpu"])
@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_networks_are_counted_gate_by_gate(kind, gates, wrap):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = kind(d, d, num_layers=2, batch_first=True)

        def forward(self, x):
            return self.cell(x)[0]

    count = count_text(wrap(lambda: LanguageModel(Recurrent())))
    assert count.params_nonembedding == 2 * 2 * gates * d * d
    # The first step's hidden state is a constant: its gradient is not computed in either layer.
    unneeded = 2 * 2 * gates * d * d / T
    assert count.flops_per_token == 6 * count.params - unneeded


def test_a_vision_transformer_counts_per_image():
    class ViT(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, d, 4, stride=4, bias=False)  # 4 patches
            self.cls = nn.Parameter(torch.zeros(1, 1, d))
            self.position = nn.Parameter(torch.zeros(1, 5, d))
            self.body, self.head = MLP(), nn.Linear(d, 10, bias=False)

        def forward(self, x):
            x = self.patches(x).flatten(2).transpose(1, 2)
            x = torch.cat((self.cls.expand(len(x), -1, -1), x), dim=1) + self.position
            return self.head(self.body(x)[:, 0])

    count = count_image(ViT)
    assert count.params == 48 * d + 8 * d * d + 10 * d
    assert count.flops_per_token == 4 * 4 * 48 * d + 5 * 6 * 8 * d * d + 6 * 10 * d


# --------------------------------------------------------------------- which N is which


def test_tied_embeddings_count_once_and_belong_to_the_embedding():
    count = count_text(lambda: gpt(tied=True))
    assert count.params == 12 * d * d + V * d
    assert count.params_nonembedding == 12 * d * d
    assert count.params_total == 12 * d * d + V * d + 7 * d


def test_a_head_stored_the_other_way_round_and_capped_is_still_the_head():
    class Transposed(LanguageModel):
        def __init__(self):
            super().__init__(MLP())
            self.head = nn.Parameter(torch.zeros(d, V))
            self.positions = nn.Embedding(T, d)

        def forward(self, x):
            h = self.embedding(x) + self.positions(torch.arange(T, device=x.device))
            return 30 * torch.tanh(self.body(h) @ self.head / 30)

    count = count_text(Transposed)
    assert (count.params, count.params_nonembedding) == (8 * d * d + d * V, 8 * d * d)


def test_matrices_as_long_as_the_vocabulary_are_not_mistaken_for_the_head():
    width = V // 4  # the hidden layer has V rows too

    count = count_text(lambda: LanguageModel(MLP(width), width))
    assert count.params_nonembedding == 8 * width * width


def test_a_head_as_wide_as_the_positions_is_not_mistaken_for_a_vocabulary():
    class Regression(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions = nn.Embedding(T, T)
            self.head = nn.Linear(T, 5)

        def forward(self, x):
            return self.head(x + self.positions(torch.arange(T, device=x.device)))

    item = (torch.zeros(T, T), torch.zeros(T, 5))
    assert count_model(Regression, item, F.mse_loss, T).params_nonembedding == 5 * T


def test_a_tied_weight_belongs_to_the_embedding_wherever_it_is_multiplied():
    class Mixed(LanguageModel):
        def __init__(self):
            super().__init__(MLP(), tied=True)
            self.mix = nn.Linear(V, 7, bias=False)

        def forward(self, x):
            return self.mix(super().forward(x))

    item = (TEXT[0], TEXT[1] % 7)
    count = count_model(Mixed, item, token_loss, T)
    assert (count.params, count.params_nonembedding) == (
        8 * d * d + V * d + 7 * V,
        8 * d * d + 7 * V,
    )


def test_tensors_merely_shaped_like_a_parameter_do_not_stand_for_it():
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(d, d))
            self.cell = nn.Linear(d, d, bias=False)

        def forward(self, x):
            state = self.unused.new_zeros(len(x), 1, d) + torch.zeros_like(self.unused[:1])
            return x + self.cell(state)

    assert count_text(lambda: LanguageModel(Stateful())).params_nonembedding == d * d


def test_a_result_written_into_a_given_tensor_is_that_tensor():
    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(d, d)

        def forward(self, x):
            with torch.no_grad():
                for _ in range(2):
                    y = torch.mul(self.linear.weight[0], x, out=torch.empty_like(x))
            return x + self.linear(y)

    assert count_text(lambda: LanguageModel(Written())).params_nonembedding == d * d


def test_frozen_weights_are_no_parameters_and_cost_no_gradient():
    def half_frozen():
        model = LanguageModel(MLP())
        model.body.up.requires_grad_(False)
        model.embedding.requires_grad_(False)
        return model

    count = count_text(half_frozen)
    assert count.params == 4 * d * d + V * d
    assert count.params_total == 4 * d * d + V * d + 3 * d  # two norms' worth and a bias
    # up: forward and the gradient of its input, which the norm before it needs
    assert count.flops_per_token == 4 * 4 * d * d + 6 * (4 * d * d + V * d)


def test_weights_computed_from_parameters_are_parameters():
    class LowRank(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = nn.Parameter(torch.zeros(d, d), requires_grad=False)
            self.a, self.b = nn.Parameter(torch.zeros(2, d)), nn.Parameter(torch.zeros(d, 2))
            self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(d, d, bias=False))

        def forward(self, x):
            return self.normed(F.linear(x, (self.base + self.b @ self.a).to(x.dtype)))

    count = count_text(lambda: LanguageModel(LowRank()))
    assert count.params_nonembedding == 2 * 2 * d + d * d


def test_rearranged_weights_are_weights_and_looked_up_rows_are_not():
    class Rearranged(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(d, d))
            self.rows = nn.Parameter(torch.zeros(V, d))
            self.register_buffer("order", torch.arange(d - 1, -1, -1))

        def forward(self, x):
            rows = self.rows[x[..., 0].long() % V]
            return F.linear(x, self.weight[self.order]) + rows

    assert count_text(lambda: LanguageModel(Rearranged())).params_nonembedding == d * d


def test_a_models_own_num_params_is_n_and_changes_no_other_figure():
    class Own(LanguageModel):
        def num_params(self):
            return 123

    count, plain = count_text(lambda: Own(MLP())), count_text(lambda: LanguageModel(MLP()))
    assert count.num_params == 123
    assert (count.params, count.flops_per_token) == (plain.params, plain.flops_per_token)


@pytest.mark.parametrize(("stated", "warned"), [(200, False), (1, True), (10**9, True)])
def test_a_num_params_of_another_unit_is_pointed_out(stated, warned):
    class Own(LanguageModel):
        def num_params(self):
            return stated

    texts = [w for w in count_text(lambda: Own(MLP())).warnings if "its num_params() is" in w]
    assert len(texts) == warned


def test_complex_parameters_are_said_to_be_counted_as_real_ones():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 5, dtype=torch.complex64))

        def forward(self, x):
            return (x.to(torch.complex64) @ self.weight).abs()

    example = torch.randn(3), torch.tensor(1)
    (warning,) = count_model(Complex, example, nn.CrossEntropyLoss(), 1).warnings
    assert "has complex parameters" in warning


# --------------------------------------------------------------------- experts, top 2 of 4

E, K, WIDE = 4, 2, 24


class Router(nn.Module):
    def __init__(self):
        super().__init__()
        self.router = nn.Linear(d, E, bias=False)

    def route(self, x):
        rows = x.reshape(-1, d)
        gates, chosen = self.router(rows).softmax(-1).topk(K, dim=-1)
        return rows, gates, chosen


class ModuleExperts(Router):
    def __init__(self):
        super().__init__()
        up, down = (
            (lambda: nn.Linear(d, WIDE, bias=False)),
            (lambda: nn.Linear(WIDE, d, bias=False)),
        )
        self.experts = nn.ModuleList(nn.Sequential(up(), nn.ReLU(), down()) for _ in range(E))


class LoopedExperts(ModuleExperts):
    def forward(self, x):
        rows, gates, chosen = self.route(x)
        out = torch.zeros_like(rows)
        for e, expert in enumerate(self.experts):
            row, slot = torch.where(chosen == e)
            out.index_add_(0, row, gates[row, slot, None] * expert(rows[row]))
        return x + out.view_as(x)


class MaskedExperts(ModuleExperts):
    def forward(self, x):
        rows, gates, chosen = self.route(x)
        out = torch.zeros_like(rows)
        for e, expert in enumerate(self.experts):
            mask = (chosen == e).any(-1)
            gate = (gates * (chosen == e)).sum(-1)[mask, None]
            out[mask] = out[mask] + gate * expert(rows[mask])
        return out.view_as(x)


class SortedExperts(ModuleExperts):
    def forward(self, x):
        rows, gates, chosen = self.route(x)
        order = chosen.flatten().argsort()
        counts = torch.bincount(chosen.flatten(), minlength=E).tolist()
        parts = rows[order // K].split(counts)
        y = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        y = y * gates.flatten()[order, None]
        return x + torch.zeros_like(rows).index_add(0, order // K, y).view_as(x)


class StackedExperts(Router):
    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.randn(E, d, WIDE))
        self.down = nn.Parameter(torch.randn(E, WIDE, d))


class StackedLoop(StackedExperts):
    def forward(self, x):
        rows, gates, chosen = self.route(x)
        out = torch.zeros_like(rows)
        for e in range(E):
            row, slot = torch.where(chosen == e)
            y = (rows[row] @ self.up[e]).relu() @ self.down[e]
            out.index_add_(0, row, gates[row, slot, None] * y)
        return x + out.view_as(x)


class GatheredExperts(StackedExperts):
    def forward(self, x):
        rows, gates, chosen = self.route(x)
        y = torch.einsum("td,tkdf->tkf", rows, self.up[chosen]).relu()
        y = torch.einsum("tkf,tkfd->tkd", y, self.down[chosen])
        return x + (y * gates[..., None]).sum(1).view_as(x)


class GroupedExperts(StackedExperts):
    def forward(self, x):
        rows, gates, chosen = self.route(x)
        order = chosen.flatten().argsort()
        ends = F.one_hot(chosen.flatten(), E).sum(0).cumsum(0).to(torch.int32)
        y = rows[order // K].bfloat16()
        y = torch._grouped_mm(y, self.up.bfloat16(), offs=ends).relu()
        y = torch._grouped_mm(y, self.down.bfloat16(), offs=ends).to(x.dtype)
        y = y * gates.flatten()[order, None]
        return x + torch.zeros_like(rows).index_add(0, order // K, y).view_as(x)


class BufferedExperts(StackedExperts):
    """Each expert takes exactly its share of the tokens, dropping or padding."""

    def forward(self, x):
        rows, gates, chosen = self.route(x)
        capacity = len(rows) * K // E
        expert = chosen.flatten()
        slot = (F.one_hot(expert, E).cumsum(0) - 1).gather(1, expert[:, None]).squeeze(1)
        slot = slot.clamp(max=capacity - 1)
        buffer = x.new_zeros(E, capacity, d)
        buffer = buffer.index_put((expert, slot), rows.repeat_interleave(K, dim=0))
        y = torch.bmm(torch.bmm(buffer, self.up).relu(), self.down)[expert, slot]
        return x + (y.view(-1, K, d) * gates[..., None]).sum(1).view_as(x)


class ExpertChoice(ModuleExperts):
    def forward(self, x):
        rows = x.reshape(-1, d)
        gates, chosen = self.router(rows).softmax(-1).t().topk(len(rows) * K // E, dim=-1)
        out = torch.zeros_like(rows)
        for expert, gate, row in zip(self.experts, gates, chosen, strict=True):
            out = out.index_add(0, row, expert(rows[row]) * gate[:, None])
        return x + out.view_as(x)


@pytest.mark.parametrize(
    ("experts", "method"),
    [
        (LoopedExperts, "cpu"),
        (MaskedExperts, "cpu"),
        (SortedExperts, "cpu"),
        (StackedLoop, "cpu"),
        (GatheredExperts, "meta"),
        (BufferedExperts, "meta"),
        (ExpertChoice, "meta"),
        pytest.param(
            GroupedExperts,
            "meta",
            marks=pytest.mark.skipif(
                not hasattr(torch, "_grouped_mm"), reason="this torch has no grouped product"
            ),
        ),
    ],
)
def test_experts_count_by_the_tokens_that_meet_them(experts, method):
    count = count_text(lambda: LanguageModel(experts()))
    active = K * 2 * d * WIDE + E * d
    assert count.method == method
    assert count.params_nonembedding == active
    assert count.params == active + V * d
    assert count.params_total == E * 2 * d * WIDE + E * d + 2 * V * d
    assert count.flops_per_token == pytest.approx(6 * count.params, rel=1e-12)
    assert "FLOPs per token are 0." in ratio_warnings({8: count}, "width")[0]


def test_experts_all_computed_are_all_active_and_a_pooled_head_stays_whole():
    class Dense(ModuleExperts):
        def forward(self, x):
            rows, gates, chosen = self.route(x)
            out = 0
            for e, expert in enumerate(self.experts):
                out = out + (gates * (chosen == e)).sum(-1, keepdim=True) * expert(rows)
            return out.view_as(x)

    class Pooled(LanguageModel):
        def forward(self, x):
            return self.head(self.body(self.embedding(x)).mean(1))

    everything = E * (2 * d * WIDE + d)
    assert count_text(lambda: LanguageModel(Dense())).params == everything + V * d
    label = (TEXT[0], torch.tensor(1))
    count = count_model(lambda: Pooled(MaskedExperts()), label, F.cross_entropy, 1)
    assert count.params == K * 2 * d * WIDE + E * d + V * d


@pytest.mark.parametrize("experts", [LoopedExperts, GatheredExperts])
def test_experts_within_experts_count_by_their_share_of_all_tokens(experts):
    class Nested(nn.Module):
        """Each token goes to one of two groups, and there to two of four experts."""

        def __init__(self):
            super().__init__()
            self.router = nn.Linear(d, 2, bias=False)
            self.groups = nn.ModuleList(experts() for _ in range(2))

        def forward(self, x):
            rows = x.reshape(-1, d)
            gate, chosen = self.router(rows).softmax(-1).max(-1)
            out = torch.zeros_like(rows)
            for g, group in enumerate(self.groups):
                out[chosen == g] = gate[chosen == g, None] * group(rows[chosen == g])
            return x + out.view_as(x)

    count = count_text(lambda: LanguageModel(Nested()))
    assert count.params_nonembedding == 2 * d + E * d + K * 2 * d * WIDE
    assert count.flops_per_token == pytest.approx(6 * count.params, rel=1e-12)


def test_reading_one_position_after_routed_experts_keeps_the_head_whole():
    class Last(LanguageModel):
        def forward(self, x):
            return self.head(self.body(self.embedding(x))[:, -1])

    label = (TEXT[0], torch.tensor(1))
    count = count_model(lambda: Last(LoopedExperts()), label, F.cross_entropy, 1)
    assert count.params == K * 2 * d * WIDE + E * d + V * d


def test_an_expert_that_no_token_meets_is_no_unknown_operator():
    class FirstTwo(LoopedExperts):
        def route(self, x):
            rows, gates, chosen = super().route(x)
            return rows, gates, chosen * 0 + torch.arange(K)

    count = count_text(lambda: LanguageModel(FirstTwo()))
    assert not any("operator" in warning for warning in count.warnings)
    assert count.params == K * 2 * d * WIDE + E * d + V * d


# ------------------------------------------------------------------- what must not count


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_activations_do_not_count(reentrant):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(Attention(), MLP())

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=reentrant)

    count = count_text(lambda: LanguageModel(Checkpointed()))
    assert count.flops_per_token == count_text(gpt).flops_per_token


@pytest.mark.parametrize("wrap", [lambda build: build, needs_values], ids=["meta", "cpu"])
def test_a_compiled_model_is_counted_as_it_is_written(wrap):
    def compiled():
        body = MLP()
        body.forward = torch.compile(body.forward, fullgraph=True)
        return torch.compile(LanguageModel(body))

    assert count_text(wrap(compiled)).flops_per_token == 6 * (8 * d * d + V * d)


# ------------------------------------------------------------------------ what warns


def test_an_unknown_operator_with_parameters_is_named_until_it_has_a_formula():
    @torch.library.custom_op("flops_fit_test::scale_rows", mutates_args=())
    def scale_rows(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x @ weight.t()

    scale_rows.register_fake(lambda x, weight: x.new_empty(*x.shape[:-1], weight.shape[0]))
    scale_rows.register_autograd(
        lambda ctx, grad: (grad, None), setup_context=lambda ctx, inputs, output: None
    )

    class Custom(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(d, d))

        def forward(self, x):
            return torch.ops.flops_fit_test.scale_rows(x, self.weight)

    count = count_text(lambda: LanguageModel(Custom()))
    assert count.params == V * d
    assert "operator flops_fit_test.scale_rows.default uses parameters" in count.warnings[0]

    operator = torch.ops.flops_fit_test.scale_rows
    try:
        register_flop_formula(operator)(lambda x, w, **_: 2 * x[0] * x[1] * w[0] * w[1])
        count = count_text(lambda: LanguageModel(Custom()))
    finally:
        del flop_registry[operator]
    assert count.params == d * d + V * d
    assert count.flops_per_token == 2 * d * d + 6 * V * d
    assert not any("operator" in warning for warning in count.warnings)


@pytest.mark.parametrize(("num_params", "ratio"), [(4416, None), (44160, "0.114"), (1000, "5.06")])
def test_a_cost_far_from_six_n_is_pointed_out(num_params, ratio):
    class Sized(LanguageModel):
        def num_params(self):
            return num_params

    count = count_text(lambda: Sized(nn.Sequential(Attention(), MLP())))
    assert count.flops_per_token == 6 * (12 * d * d + V * d) + 12 * T * d == 30336
    assert count.warnings == ()
    if ratio:
        (warning,) = ratio_warnings({8: count}, "width")
        assert warning.startswith(f"width=8: FLOPs per token are {ratio}")
        assert f"N = {num_params}" in warning
    else:
        assert ratio_warnings({8: count}, "width") == []


# ----------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (
            lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten(), reduction="none"),
            r"loss: shape \(64,\); allowed: a scalar, the mean over",
        ),
        (lambda o, t: 3.0, r"loss: a float; allowed: a scalar"),
        (lambda o, t: o.mean().detach(), "loss: depends on no trainable parameter"),
        (lambda o, t: F.cross_entropy(o, t), r"loss: fails on LanguageModel: RuntimeError.*\.py:"),
    ],
)
def test_a_loss_that_is_no_trainable_scalar_is_refused(loss_fn, message):
    with pytest.raises(FlopsFitError, match=message):
        count_model(lambda: LanguageModel(MLP()), TEXT, loss_fn, T)


def test_a_loss_that_reads_values_leaves_the_count_on_the_meta_device():
    def masked(outputs, targets):
        return F.cross_entropy(outputs[targets >= 0], targets[targets >= 0])

    count = count_model(lambda: LanguageModel(MLP(), tied=True), TEXT, masked, T)
    assert (count.method, count.params_nonembedding) == ("meta", 8 * d * d)
    assert count.flops_per_token == 6 * (8 * d * d + V * d)


def test_a_model_that_fails_on_the_data_is_reported_in_one_line_with_its_place():
    class Misfit(LanguageModel):
        def forward(self, x):
            return self.head(self.embedding(x)[..., 1:])

    with pytest.raises(FlopsFitError) as error:
        count_text(lambda: Misfit(MLP()))
    assert "model: Misfit fails on the data: RuntimeError" in str(error.value)
    assert "test_counting.py:" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_without_products_or_with_nothing_to_train_is_refused():
    with pytest.raises(FlopsFitError, match="no matrix product"):
        count_model(lambda: nn.PReLU(3), (torch.zeros(3), torch.zeros(3)), F.mse_loss, 1)
    with pytest.raises(FlopsFitError, match="no trainable parameter"):
        count_text(lambda: LanguageModel(MLP()).requires_grad_(False))
    with pytest.raises(FlopsFitError, match="tokens per item: 0"):
        count_model(lambda: LanguageModel(MLP()), TEXT, token_loss, 0)


def test_a_backward_pass_that_fails_is_reported_as_the_models():
    class OneWay(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise ValueError("no way back")

    class Body(nn.Module):
        def forward(self, x):
            return OneWay.apply(x)

    message = r"LanguageModel fails in the backward pass: ValueError: no way back \(.*\.py:"
    with pytest.raises(FlopsFitError, match=message):
        count_text(lambda: LanguageModel(Body()))


def test_items_that_make_no_batch_are_refused():
    with pytest.raises(FlopsFitError, match="dataset: items make no batch: TypeError"):
        count_model(gpt, (TEXT[0], object()), token_loss, T)


@pytest.mark.parametrize("wrap", [lambda build: build, needs_values], ids=["meta", "cpu"])
@pytest.mark.parametrize("sizes", [[9, 10], [10], [10, 12], [9, 12, 15, 18, 21, 100]])
def test_a_size_that_cannot_be_built_is_named(wrap, sizes):
    def picky(width):
        assert width % 3 == 0, "width must be a multiple of 3"
        return wrap(lambda: LanguageModel(MLP(width), width))()

    refused = next(size for size in sizes if size % 3)
    message = rf"picky\(width={refused}\) cannot be built: AssertionError: width must be"
    with pytest.raises(FlopsFitError, match=message):
        count_sizes(picky, "width", sizes, {}, TEXT, token_loss, T)


def test_a_large_size_that_cannot_be_built_is_named_not_extrapolated(monkeypatch):
    def picky(width):
        assert width != 768, "not this one"
        return LanguageModel(ReadsValues(width), width)

    class ReadsValues(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.linear = nn.Linear(width, width)

        def forward(self, x):
            return self.linear(x) * float(x.isfinite().all())

    monkeypatch.setattr(counting, "CPU_PARAMS", 40_000)
    counts = count_sizes(picky, "width", [384], {}, TEXT, token_loss, T)
    assert counts[384].params == 384 * 384 + V * 384
    with pytest.raises(FlopsFitError, match=r"picky\(width=768\) cannot be built: .*not this"):
        count_sizes(picky, "width", [768], {}, TEXT, token_loss, T)


# -------------------------------------------------------------- inputs of every shape


def test_items_may_be_mappings_tuples_numbers_and_meta_tensors():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, a, b):
            return {"logits": self.linear(a) + b}

    def loss(outputs, targets):
        return F.cross_entropy(outputs["logits"], targets)

    a, b = torch.zeros(4), torch.zeros(3)
    meta = {"a": a.to("meta"), "b": b.to("meta")}
    for inputs, targets in [
        ({"a": a, "b": b}, 1),
        ((a, b.numpy()), torch.tensor(1)),
        (meta, torch.tensor(1, device="meta")),
    ]:
        assert count_model(Two, (inputs, targets), loss, 1).flops_per_token == 4 * 12
        assert count_model(needs_values(Two), (inputs, targets), loss, 1).flops_per_token == 4 * 12


def test_a_collate_function_of_the_users_own_makes_the_batch():
    def pad_to_double(items):
        inputs = torch.stack([F.pad(x, (0, T)) for x, _ in items])
        return inputs, torch.stack([F.pad(y, (0, T)) for _, y in items])

    plain = count_text(gpt).flops_per_token
    padded = count_model(gpt, TEXT, token_loss, T, collate_fn=pad_to_double).flops_per_token
    assert padded == 2 * plain + 2 * 12 * T * d  # attention to twice the length


def test_counting_leaves_the_callers_random_state_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    count_text(gpt)
    count_text(needs_values(gpt))
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------- sizes, extrapolated


def by_hand(width: int, depth: int = 1) -> tuple[int, int, float]:
    """(total, matmul parameters, FLOPs per token) of ``gpt(width, depth)``."""
    matmul = 12 * depth * width**2 + V * width
    total = matmul + V * width + 7 * depth * width
    return total, matmul, 6 * matmul + 12 * T * width * depth


def counted(count) -> tuple[int, int, float]:
    return count.params_total, count.params, count.flops_per_token


def test_sizes_come_back_in_the_order_given():
    counts = count_sizes(gpt, "width", [32, 8, 16], {"depth": 2}, TEXT, token_loss, T)
    assert list(counts) == [32, 8, 16]
    for width, count in counts.items():
        assert counted(count) == by_hand(width, depth=2)
        assert count.method == "meta"


@pytest.mark.parametrize(
    ("size_param", "sizes", "figures"),
    [
        ("width", [16, 32, 1024, 4096], lambda size: by_hand(size, 3)),
        ("depth", [2, 4, 60], lambda size: by_hand(d, size)),
    ],
)
def test_sizes_that_need_memory_are_extrapolated_exactly(monkeypatch, size_param, sizes, figures):
    monkeypatch.setattr(counting, "CPU_PARAMS", 60_000)
    kwargs = {"depth": 3} if size_param == "width" else {}
    counts = count_sizes(needs_values(gpt), size_param, sizes, kwargs, TEXT, token_loss, T)
    assert [counted(counts[size]) for size in sizes] == [figures(size) for size in sizes]
    assert {count.method for count in counts.values()} == {"cpu"}
    warning = "".join(counts[sizes[-1]].warnings)
    assert "extrapolated by a cubic" in warning
    assert "Tensor.item() cannot be called on meta tensors" in warning
    assert "extrapolated" not in "".join(counts[sizes[0]].warnings)


def test_width_and_depth_growing_together_are_extrapolated_exactly(monkeypatch):
    def dial(size):
        return needs_values(gpt)(width=4 * size, depth=size)

    monkeypatch.setattr(counting, "CPU_PARAMS", 60_000)
    counts = count_sizes(dial, "size", [6, 48], {}, TEXT, token_loss, T)
    assert counted(counts[6]) == by_hand(24, 6)
    assert counted(counts[48]) == by_hand(192, 48)


def test_no_size_wanted_need_be_small_enough_to_run(monkeypatch):
    monkeypatch.setattr(counting, "CPU_PARAMS", 100_000)
    counts = count_sizes(needs_values(gpt), "width", [768, 1536], {}, TEXT, token_loss, T)
    assert [counted(counts[width]) for width in (768, 1536)] == [by_hand(768), by_hand(1536)]


def test_routed_experts_are_extrapolated_exactly(monkeypatch):
    class Experts(LoopedExperts):
        def __init__(self, wide):
            super().__init__()
            up = (nn.Linear(d, wide, bias=False) for _ in range(E))
            self.experts = nn.ModuleList(
                nn.Sequential(layer, nn.Linear(wide, d, bias=False)) for layer in up
            )

    monkeypatch.setattr(counting, "CPU_PARAMS", 20_000)
    count = count_sizes(
        lambda wide: LanguageModel(Experts(wide)), "wide", [96, 960], {}, TEXT, token_loss, T
    )[960]
    assert count.params == K * 2 * d * 960 + E * d + V * d
    assert count.flops_per_token == pytest.approx(6 * count.params, rel=1e-9)


def test_a_cost_that_no_cubic_describes_is_refused_not_guessed(monkeypatch):
    def rounded(width):
        hidden = -(-width * 8 // 3 // 100) * 100  # up to whole hundreds
        body = nn.Sequential(nn.Linear(width, hidden), nn.Linear(hidden, width))
        return needs_values(lambda: LanguageModel(body, width))()

    monkeypatch.setattr(counting, "CPU_PARAMS", 40_000)
    with pytest.raises(FlopsFitError, match=r"at width=768 cannot be extrapolated from width = "):
        count_sizes(rounded, "width", [768], {}, TEXT, token_loss, T)


def test_too_few_small_sizes_are_refused_with_those_that_run(monkeypatch):
    def few(width):
        assert width >= 48
        return needs_values(gpt)(width=width)

    monkeypatch.setattr(counting, "CPU_PARAMS", 40_000)
    with pytest.raises(FlopsFitError, match=r"width=768 does not run .* only \[48\] run"):
        count_sizes(few, "width", [48, 768], {}, TEXT, token_loss, T)


# -------------------------------------------------------------- a model that knows its cost


class Declared(LanguageModel):
    value: object = 1000.5

    def flops_per_token(self):
        return self.value


def test_a_models_own_flops_per_token_are_believed():
    count = count_text(lambda: Declared(MLP()))
    assert (count.flops_per_token, count.method) == (1000.5, "model")
    assert count.params == 8 * d * d + V * d


@pytest.mark.parametrize(
    ("factor", "warned"), [(1, False), (1 / 2, False), (1 / 3, True), (1e9, True)]
)
def test_own_flops_far_from_those_that_were_counted_are_pointed_out(factor, warned, monkeypatch):
    counted = count_text(lambda: LanguageModel(MLP())).flops_per_token
    monkeypatch.setattr(Declared, "value", counted * factor)
    warnings = count_text(lambda: Declared(MLP())).warnings
    assert [f"while {counted:.4g} were counted" in warning for warning in warnings] == [
        True
    ] * warned


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "many", None])
def test_own_flops_that_are_no_positive_number_are_refused(value, monkeypatch):
    monkeypatch.setattr(Declared, "value", value)
    with pytest.raises(FlopsFitError, match=r"Declared\.flops_per_token\(\) returned .*positive"):
        count_text(lambda: Declared(MLP()))


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_that_runs_on_gpus_only_is_counted_by_its_word_and_its_modules(tied):
    class GpuOnly(Declared):
        def forward(self, x):
            raise RuntimeError("no kernel for this device")

    def build(width):
        return GpuOnly(MLP(width), width, tied)

    width = V // 4  # the hidden layer is as long as the vocabulary
    for count in (
        count_text(lambda: build(width)),
        count_sizes(build, "width", [width, 10**5], {}, TEXT, token_loss, T)[width],
    ):
        assert (count.flops_per_token, count.method) == (1000.5, "model")
        assert count.params == 8 * width * width + V * width
        assert count.params_nonembedding == 8 * width * width
        assert "no kernel for this device" in count.warnings[0]


# ------------------------------------------------------------------------------- scale


@pytest.mark.skipif(sys.platform != "linux", reason="reads peak memory from /proc")
@pytest.mark.slow
def test_thirty_sizes_up_to_100b_parameters_fit_into_a_gigabyte():
    """The time is printed, not asserted: it depends on the machine."""
    code = """
        import re, time, torch
        from torch.nn import functional as F
        from test_counting import gpt, token_loss, V
        from flops_fit.plan.counting import count_sizes

        start, length = time.perf_counter(), 2048
        item = (torch.zeros(length, dtype=torch.long, device="meta"),) * 2
        depths = sorted({round(4 * 20 ** (i / 34)) for i in range(35)})[-30:]
        build = lambda depth: gpt(128 * depth, depth)
        counts = count_sizes(build, "depth", depths, {}, item, token_loss, length)
        width, largest = 128 * depths[-1], counts[depths[-1]]
        assert largest.params == 12 * depths[-1] * width**2 + V * width > 100e9
        assert largest.flops_per_token == 6 * largest.params + 12 * length * width * depths[-1]
        seconds = time.perf_counter() - start
        peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
        print(len(depths), int(peak[1]) / 1e6, seconds)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=__file__.rpartition("/")[0],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    sizes, gigabytes, seconds = map(float, run.stdout.split())
    print(f"{sizes:.0f} sizes in {seconds:.1f} s, {gigabytes:.2f} GB")
    assert sizes == 30
    assert gigabytes < 1


@pytest.mark.parametrize(("outputs", "warned"), [(1, True), (3, False)])
def test_outputs_that_torch_would_stretch_to_their_targets_are_pointed_out(outputs, warned):
    example = (torch.zeros(4, 5), torch.zeros(4, 3))
    count = count_model(lambda: nn.Linear(5, outputs), example, F.mse_loss, 12)
    assert ("torch would stretch one to the other" in " ".join(count.warnings)) is warned


@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()), torch.zeros(5, 3, 8, 8)),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4)), torch.zeros(5, 3, 8, 8)),
        (
            lambda: nn.Sequential(nn.TransformerEncoderLayer(8, 2), nn.Flatten(0, 1)),
            torch.zeros(5, 7, 8),
        ),
    ],
    ids=["images", "flattened", "attention"],
)
def test_a_dataset_of_ready_batches_is_named(build, inputs):
    targets = torch.zeros(len(inputs), dtype=torch.long)
    with pytest.raises(FlopsFitError, match=r"fails on the data: .*seems to give ready batches"):
        count_model(build, (inputs, targets), F.cross_entropy, len(inputs))


def test_an_item_of_the_wrong_size_is_not_taken_for_a_batch():
    with pytest.raises(FlopsFitError, match="fails on the data") as error:
        count_model(lambda: nn.Linear(3, 4), (torch.zeros(5), torch.tensor(1)), F.cross_entropy, 1)
    assert "ready batches" not in str(error.value)
