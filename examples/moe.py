"""A mixture of experts: a transformer in which each token meets 2 of 8 feed-forward networks.

Which rows an expert gets depends on the data, so this model cannot run on the meta device: its
FLOPs are counted on the CPU, and N counts an expert by the share of the tokens that it met.
"""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from flops_fit.loss import cross_entropy

BALANCE = 0.01  # weight of the balancing loss (Fedus et al. 2021, arXiv 2101.03961)


class Experts(nn.Module):
    def __init__(self, width, experts, chosen):
        super().__init__()
        self.chosen = chosen
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(experts)
        )

    def forward(self, x):
        """The mixed outputs, and how unevenly the experts were chosen: 1 where evenly."""
        rows = x.flatten(0, -2)
        share = self.router(rows).softmax(-1)
        weight, choice = share.topk(self.chosen)
        weight = weight / weight.sum(-1, keepdim=True)
        mixed = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            # No row at all is no special case: the expert then takes part with zero gradients,
            # as training on several processes wants every parameter in every step.
            row, rank = (choice == number).nonzero(as_tuple=True)
            mixed = mixed.index_add(0, row, weight[row, rank, None] * expert(rows[row]))
        met = nn.functional.one_hot(choice, len(self.experts)).float().mean((0, 1))
        return mixed.view_as(x), len(self.experts) * (met * share.mean(0)).sum()


class Block(nn.Module):
    def __init__(self, width, heads, experts, chosen):
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_experts = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.experts = Experts(width, experts, chosen)

    def forward(self, x):
        B, T, width = x.shape
        qkv = self.qkv(self.before_attention(x)).view(B, T, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(B, T, width))
        mixed, unevenness = self.experts(self.before_experts(x))
        return x + mixed, unevenness


class MixtureOfExperts(nn.Module):
    def __init__(self, width, layers=2, experts=8, chosen=2, vocab_size=256, seq_len=64):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(seq_len, width)
        blocks = (Block(width, width // 8, experts, chosen) for _ in range(layers))
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocab_size)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        uneven = []
        for block in self.blocks:
            x, unevenness = block(x)
            uneven.append(unevenness)
        logits = self.head(self.norm(x))
        # The held-out loss is the cross-entropy alone, as the law is about that.
        return logits, BALANCE * torch.stack(uneven).mean() if self.training else 0.0


def loss(outputs, targets):
    logits, balance = outputs
    return cross_entropy(logits, targets) + balance
