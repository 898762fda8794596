"""A GPT for GPUs: its one size, the depth, sets the width too, and its rates transfer over both.

The shape rule is width = 64 x depth in heads of 64, so that N is one dial. What a learning rate
means is kept the same over width by the maximal update parametrisation (muP, Yang et al. 2022,
arXiv 2203.03466, table 8) and over depth by branches that count 1/depth (Dey et al. 2025, arXiv
2505.01618): a rate tuned on a small model serves a large one.
"""

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.checkpoint import checkpoint

from flops_fit.examples.gpt import MLP, Attention, norm

ROTARY_BASE = 10_000.0  # for contexts of thousands of tokens (Su et al. 2021)

# The shape at which every rate is `lr` itself and every multiplier 1.
REFERENCE_WIDTH, REFERENCE_DEPTH = 256, 4

# The look-up is normalised, so only directions count: rows this short turn by a tenth of a radian
# and more in the first steps at lr, as they must within some thousand steps.
EMBEDDING_STD = 0.02


def rotary_table(seq_len: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines for `gpt.rotate`, each (seq_len, 1, head_dim)."""
    frequencies = ROTARY_BASE ** -(torch.arange(0, head_dim, 2) / head_dim)
    angles = torch.arange(seq_len)[:, None, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


class Block(nn.Module):
    """Attention, then MLP; each reads a normalised stream and adds ``share`` of its output to it."""

    def __init__(self, width: int, head_dim: int, share: float):
        super().__init__()
        self.attention = Attention(width, head_dim)
        self.mlp = MLP(width)
        self.share = share

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.share * self.attention(norm(x), cos, sin)
        return x + self.share * self.mlp(norm(x))


class GPT(nn.Module):
    """A decoder-only transformer of ``depth`` layers: tokens (B, T) -> logits (B, T, vocab_size).

    Its width is ``aspect * depth``, in heads of ``head_dim``; ``seq_len`` is the longest T. The
    embedding and the output head are not tied. Branches and head start at zero, so that the first
    loss is ln(vocab_size). Under bf16 autocast the stream between the blocks stays in fp32. Raises
    ValueError for a width that is no multiple of ``head_dim``, and for more tokens than
    ``seq_len``.
    """

    def __init__(
        self,
        depth: int,
        *,
        aspect: int = 64,
        head_dim: int = 64,
        vocab_size: int = 50_304,
        seq_len: int = 1024,
    ):
        super().__init__()
        width = aspect * depth
        if width % head_dim:
            raise ValueError(f"width = {aspect} x {depth}: no multiple of head_dim = {head_dim}")
        share = REFERENCE_DEPTH / depth
        self.embedding = nn.Embedding(vocab_size, width)
        self.blocks = nn.ModuleList(Block(width, head_dim, share) for _ in range(depth))
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.head_scale = REFERENCE_WIDTH / width
        cos, sin = rotary_table(seq_len, head_dim)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.recompute = False
        self.initialise()

    def initialise(self) -> None:
        """Matrices of standard deviation 1/sqrt(fan_in) that read the stream; zeros that write."""
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        for block in self.blocks:
            for matrix in (block.attention.qkv.weight, block.mlp.up.weight):
                nn.init.normal_(matrix, std=matrix.size(1) ** -0.5)
            nn.init.zeros_(block.attention.out.weight)
            nn.init.zeros_(block.mlp.down.weight)
        nn.init.zeros_(self.head.weight)

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Whether blocks recompute their activations in the backward pass instead of storing them."""
        self.recompute = enabled

    def num_params(self) -> int:
        """12 L d^2 + V d: every matrix that multiplies, so not the embedding look-up."""
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
        return self.head(self.head_scale * norm(x))


def optimizer(
    model: GPT,
    lr: float = 0.004,
    *,
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.95),
) -> AdamW:
    """AdamW with muP's rates: ``lr`` for embedding and head, ``lr`` x 256 / width inside the blocks.

    The head needs no rate of its own, since its input is scaled by 256 / width. Only the matrices
    inside the blocks decay, by rate x ``weight_decay`` at width 256 and as much at any other
    (table 1 of arXiv 2505.01618).
    """
    wider = model.head.in_features / REFERENCE_WIDTH
    ends = [model.embedding.weight, model.head.weight]
    inside = list(model.blocks.parameters())
    groups = [
        {"params": ends, "lr": lr, "weight_decay": 0.0},
        {"params": inside, "lr": lr / wider, "weight_decay": weight_decay * wider},
    ]
    # Gradients shrink as width and depth grow; the usual eps of 1e-8 would come to outweigh them.
    return AdamW(groups, betas=tuple(betas), eps=1e-12, fused=True)
