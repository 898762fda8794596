"""A small vision transformer whose only size is its width, for images of a fixed size.

The blocks are those of the GPT of this package (normalised queries and keys, ReLU^2, output
projections that start at zero, Muon), but with attention in both directions and learned positions.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.optim import AdamW, Muon, Optimizer

from flops_fit.examples.gpt import HEAD_REFERENCE_WIDTH, MAX_SCORE, MLP, head_dim_for, norm

POSITION_STD = 0.1


class Attention(nn.Module):
    """Self-attention of each patch to all patches."""

    def __init__(self, d_model: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, d = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, -1, self.head_dim).permute(2, 0, 3, 1, 4)
        y = scaled_dot_product_attention(norm(q), norm(k), v, scale=MAX_SCORE / self.head_dim)
        return self.out(y.transpose(1, 2).reshape(B, T, d))


class Block(nn.Module):
    """Attention, then MLP; each reads the normalised stream and adds its output to the stream."""

    def __init__(self, d_model: int, head_dim: int):
        super().__init__()
        self.attention = Attention(d_model, head_dim)
        self.mlp = MLP(d_model)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(norm(x))
        return x + self.mlp(norm(x))


class ViT(nn.Module):
    """Images (B, channels, size, size) -> logits (B, classes), from the mean over all patches.

    ``patch`` must divide ``image_size``. One matrix turns a patch into a vector of width
    ``d_model``. The head starts at zero, so the first loss is ln(classes).
    """

    def __init__(
        self,
        d_model: int,
        *,
        n_layers: int = 2,
        patch: int = 4,
        image_size: int = 28,
        channels: int = 1,
        classes: int = 10,
        head_dim: int = 16,
    ):
        super().__init__()
        if image_size % patch:
            raise ValueError(f"patch = {patch} does not divide image_size = {image_size}")
        self.patch = patch
        head_dim = head_dim_for(d_model, head_dim)
        self.embedding = nn.Linear(channels * patch**2, d_model, bias=False)
        self.positions = nn.Parameter(torch.empty((image_size // patch) ** 2, d_model))
        self.blocks = nn.ModuleList(Block(d_model, head_dim) for _ in range(n_layers))
        self.head = nn.Linear(d_model, classes, bias=False)
        nn.init.normal_(self.positions, std=POSITION_STD)
        for block in self.blocks:
            nn.init.zeros_(block.attention.out.weight)
            nn.init.zeros_(block.mlp.down.weight)
        nn.init.zeros_(self.head.weight)

    def forward(self, images: Tensor) -> Tensor:
        B, channels, _, _ = images.shape
        rows = images.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))
        patches = rows.permute(0, 2, 4, 1, 3, 5).reshape(B, -1, channels * self.patch**2)
        x = self.embedding(patches) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(norm(x).mean(1))


def optimizer(
    model: ViT, lr: float = 0.02, *, betas: tuple[float, float] = (0.9, 0.98)
) -> list[Optimizer]:
    """Return Muon for the matrices in the blocks and AdamW for the rest, without weight decay.

    The rate is ``lr`` for embedding and positions and lr x 64 / d_model for the head, as in the
    GPT. ``betas`` are those of AdamW.
    """
    groups = [
        {"params": [model.embedding.weight, model.positions], "lr": lr},
        {"params": [model.head.weight], "lr": lr * HEAD_REFERENCE_WIDTH / model.head.in_features},
    ]
    return [
        Muon(model.blocks.parameters(), lr=lr, weight_decay=0.0),
        AdamW(groups, betas=tuple(betas), weight_decay=0.0, fused=True),
    ]
