"""A small GPT whose only size is its width, and the optimisers that train it.

All choices that keep one recipe good from d_model = 12 to 128 are fixed here, so that a sweep over
widths compares only sizes: rotary positions (Su et al. 2021), RMSNorm without gain, normalised
queries and keys (Henry et al. 2020), ReLU^2 (So et al. 2021), zero-initialised output projections,
and Muon (Jordan et al. 2024) for the matrices.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, rms_norm, scaled_dot_product_attention
from torch.optim import AdamW, Muon, Optimizer
from torch.utils.checkpoint import checkpoint

ROTARY_BASE = 100.0  # for contexts of tens of tokens; the usual 10,000 is for thousands

# Queries and keys have norm sqrt(head_dim), so attention scores are between -12 and 12. The usual
# 1/sqrt(head_dim) allows only -4 to 4 at head_dim 16, which is 0.08 nats worse and doubles the
# spread between seeds.
MAX_SCORE = 12.0

# The look-up is normalised, so only directions count, and short rows turn quickly at AdamW's steps
# of lr. Compared with rows of std 1, 21 of 23 paired runs from 3e10 to 8.1e11 FLOPs had a lower
# loss, with a median difference of 0.021 nats; 0.02 and 0.3 were no better at 3e10.
EMBEDDING_STD = 0.1

HEAD_REFERENCE_WIDTH = 64  # at this width the learning rate of the output head is `lr`


def head_dim_for(d_model: int, head_dim: int = 16) -> int:
    """Return the largest even divisor of ``d_model`` that is at most ``head_dim``.

    16 divides most useful widths; d_model 12 and 24 get heads of 12. A width that would have heads
    smaller than half of ``head_dim`` is refused with a ValueError, because its loss would not lie
    on the curve of the other sizes.
    """
    divisors = [n for n in range(2, head_dim + 1, 2) if d_model % n == 0]
    if not divisors or divisors[-1] < min(d_model, head_dim / 2):
        raise ValueError(
            f"d_model = {d_model}: attention heads need an even divisor of it between "
            f"{-(-head_dim // 2)} and {head_dim}; multiples of {head_dim // 2} have one"
        )
    return divisors[-1]


def norm(x: Tensor) -> Tensor:
    """Apply RMSNorm without gain over the last dimension."""
    return rms_norm(x, (x.size(-1),))


def rotary_table(seq_len: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Return the cosines and signed sines for `rotate`, each of shape (seq_len, 1, head_dim)."""
    frequencies = ROTARY_BASE ** -(torch.arange(0, head_dim, 2) / head_dim)
    angles = torch.arange(seq_len)[:, None, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x[i], x[i + head_dim / 2]) of ``x`` (B, T, heads, head_dim) by their angles."""
    return x * cos + x.roll(x.size(-1) // 2, dims=-1) * sin


class Attention(nn.Module):
    """Causal self-attention; queries, keys and values come from one matrix."""

    def __init__(self, d_model: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, d = x.shape
        qkv = self.qkv(x).view(B, T, -1, self.head_dim)
        qk, v = qkv.split([2 * d // self.head_dim, d // self.head_dim], dim=2)
        q, k = rotate(norm(qk), cos, sin).chunk(2, dim=2)
        q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))
        scale = MAX_SCORE / self.head_dim
        y = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        return self.out(y.transpose(1, 2).reshape(B, T, d))


class MLP(nn.Module):
    """Two linear layers with ReLU^2 between them; the inner width is four times the outer one."""

    def __init__(self, d_model: int):
        super().__init__()
        self.up = nn.Linear(d_model, 4 * d_model, bias=False)
        self.down = nn.Linear(4 * d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(relu(self.up(x)).square())


class Block(nn.Module):
    """Attention, then MLP; each reads the normalised stream and adds its output to the stream."""

    def __init__(self, d_model: int, head_dim: int):
        super().__init__()
        self.attention = Attention(d_model, head_dim)
        self.mlp = MLP(d_model)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(norm(x), cos, sin)
        return x + self.mlp(norm(x))


class GPT(nn.Module):
    """A decoder-only transformer of width ``d_model``: tokens (B, T) -> logits (B, T, vocab_size).

    ``seq_len`` is the largest T and ``head_dim`` the largest size of a head (see `head_dim_for`).
    The embedding and the output head are not tied. The head starts at zero, so the first loss is
    ln(vocab_size).
    """

    def __init__(
        self,
        d_model: int,
        *,
        n_layers: int = 2,
        vocab_size: int = 128,
        seq_len: int = 64,
        head_dim: int = 16,
    ):
        super().__init__()
        head_dim = head_dim_for(d_model, head_dim)
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.blocks = nn.ModuleList(Block(d_model, head_dim) for _ in range(n_layers))
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        cos, sin = rotary_table(seq_len, head_dim)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.recompute = False
        self.initialise()

    def initialise(self) -> None:
        """Draw uniform matrices of standard deviation 1/sqrt(fan_in); set output matrices to zero."""
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        for block in self.blocks:
            for matrix in (block.attention.qkv.weight, block.mlp.up.weight):
                bound = (3 / matrix.size(1)) ** 0.5
                nn.init.uniform_(matrix, -bound, bound)
            nn.init.zeros_(block.attention.out.weight)
            nn.init.zeros_(block.mlp.down.weight)
        nn.init.zeros_(self.head.weight)

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Recompute activations in the backward pass if ``enabled``, instead of storing them."""
        self.recompute = enabled

    def num_params(self) -> int:
        """Return 12 L d^2 + V d: the parameters of all matrices except the embedding look-up."""
        return sum(p.numel() for p in self.parameters()) - self.embedding.weight.numel()

    def forward(self, tokens: Tensor) -> Tensor:
        length, longest = tokens.size(1), self.cos.size(0)
        if length > longest:
            raise ValueError(f"{length} tokens in a row, but the model's seq_len is {longest}")
        cos, sin = self.cos[:length], self.sin[:length]
        x = norm(self.embedding(tokens))
        for block in self.blocks:
            if self.recompute and self.training:
                x = checkpoint(block, x, cos, sin, use_reentrant=False)
            else:
                x = block(x, cos, sin)
        return self.head(norm(x))


def optimizer(
    model: GPT,
    lr: float = 0.02,
    *,
    momentum: float = 0.95,
    betas: tuple[float, float] = (0.9, 0.98),
) -> list[Optimizer]:
    """Return Muon for the matrices in the blocks and AdamW for embedding and head, without decay.

    All rates are multiples of ``lr``: the steps of Muon are scaled by sqrt(max(1, fan_out / fan_in))
    (its "original" rule), and the rate of the head by 64 / d_model, because it has more inputs in a
    wider model. ``momentum`` belongs to Muon, ``betas`` to AdamW.
    """
    embedding, head = model.embedding.weight, model.head.weight
    groups = [
        {"params": [embedding], "lr": lr},
        {"params": [head], "lr": lr * HEAD_REFERENCE_WIDTH / head.size(1)},
    ]
    return [
        Muon(model.blocks.parameters(), lr=lr, momentum=momentum, weight_decay=0.0),
        AdamW(groups, betas=tuple(betas), weight_decay=0.0, fused=True),
    ]
