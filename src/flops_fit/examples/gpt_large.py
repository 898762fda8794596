"""A GPT for GPUs whose only size is its depth; one learning rate fits all sizes.

The width is 64 x depth, in heads of 64. The best learning rate is kept the same for all widths by
the maximal update parametrisation (muP, Yang et al. 2022, arXiv 2203.03466, table 8), and for all
depths by branches that are scaled by 1/depth (Dey et al. 2025, arXiv 2505.01618). So a rate that
was tuned on a small model can be used for a large one.
"""

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.checkpoint import checkpoint

from flops_fit.examples.gpt import MLP, Attention, norm

ROTARY_BASE = 10_000.0  # for contexts of thousands of tokens (Su et al. 2021)

# The shape at which all rates are `lr` and all multipliers 1.
REFERENCE_WIDTH, REFERENCE_DEPTH = 256, 4

# The look-up is normalised, so only directions count. Such short rows turn by at least a tenth of a
# radian in the first steps at lr, which they need in runs of some thousand steps.
EMBEDDING_STD = 0.02


def rotary_table(seq_len: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Return the cosines and signed sines for `gpt.rotate`, each of shape (seq_len, 1, head_dim)."""
    frequencies = ROTARY_BASE ** -(torch.arange(0, head_dim, 2) / head_dim)
    angles = torch.arange(seq_len)[:, None, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


class Block(nn.Module):
    """Attention, then MLP; each reads the normalised stream and adds ``share`` x its output to it."""

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

    Its width is ``aspect * depth``, in heads of ``head_dim``; ``seq_len`` is the largest T. The
    embedding and the output head are not tied. Branches and head start at zero, so the first loss
    is ln(vocab_size). Under bf16 autocast the stream between the blocks stays in fp32. Raises
    ValueError for a width that is not a multiple of ``head_dim``, and for more tokens than
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
        """Draw matrices that read the stream with std 1/sqrt(fan_in); set those that write to zero."""
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        for block in self.blocks:
            for matrix in (block.attention.qkv.weight, block.mlp.up.weight):
                nn.init.normal_(matrix, std=matrix.size(1) ** -0.5)
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
        return self.head(self.head_scale * norm(x))


def optimizer(
    model: GPT,
    lr: float = 0.004,
    *,
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.95),
) -> AdamW:
    """Return AdamW with the rates of muP: ``lr`` for embedding and head, lr x 256 / width for blocks.

    The head needs no other rate, because its input is scaled by 256 / width. Only the matrices in
    the blocks decay: by rate x ``weight_decay`` at width 256, and by the same amount per step at
    every other width (table 1 of arXiv 2505.01618). ``betas`` are those of AdamW.
    """
    wider = model.head.in_features / REFERENCE_WIDTH
    ends = [model.embedding.weight, model.head.weight]
    inside = list(model.blocks.parameters())
    groups = [
        {"params": ends, "lr": lr, "weight_decay": 0.0},
        {"params": inside, "lr": lr / wider, "weight_decay": weight_decay * wider},
    ]
    # Gradients get smaller as width and depth grow; the usual eps of 1e-8 would outweigh them.
    return AdamW(groups, betas=tuple(betas), eps=1e-12, fused=True)
