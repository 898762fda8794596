"""Random optimisers, some of which the training loop cannot step."""

from dataclasses import replace

import numpy as np
from parts import Parts, pick

OPTIMIZERS = {
    "sgd": "return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)",
    "two": "return [torch.optim.SGD(matrices, lr=lr), torch.optim.AdamW(others, lr=0.1 * lr)]",
    "rmsprop": "return torch.optim.RMSprop(model.parameters(), lr=lr)",
    "adagrad": "return torch.optim.Adagrad(model.parameters(), lr=lr)",
    "muon": "return [torch.optim.Muon(matrices, lr=lr), torch.optim.AdamW(others, lr=lr)]",
    "switched": "return Switched(model.parameters(), lr=lr)",
    "lbfgs": "return torch.optim.LBFGS(model.parameters(), lr=lr)",
    "no rate": "return NoRate(model.parameters())",
    "foreign": "return torch.optim.SGD([nn.Parameter(torch.zeros(3))], lr=lr)",
}
OPTIMIZER = """
class NoRate(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {{}})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p -= 0.001 * p.grad.sign()

class Switched(torch.optim.SGD):
    def train(self):
        self.mode = "train"

    def eval(self):
        self.mode = "eval"

def optimizer(model, lr):
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim == 2]
    others = [p for p in trained if p.ndim != 2]
    {body}
"""


def with_optimizer(rng: np.random.Generator, parts: Parts) -> Parts:
    """The same with an optimiser, now and then one that the loop cannot step."""
    if rng.random() < 0.4:
        return parts
    wrong = ("lbfgs", "no rate", "foreign")
    good = [name for name in OPTIMIZERS if name not in wrong]
    name = pick(rng, *(good if rng.random() < 0.85 else wrong))
    refuse = f"the optimiser {name}" if name in wrong else parts.must_refuse
    text = OPTIMIZER.format(body=OPTIMIZERS[name])
    return replace(parts, optimizer=text, must_refuse=refuse, name=f"{parts.name}, {name}")
