"""The default optimiser, several optimisers behind one, and what the loop asks of an optimiser."""

import inspect
from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from flops_fit.errors import FlopsFitError

FUSED_DEVICES = ("cpu", "cuda", "xpu", "mps")  # where torch has fused steps


def adamw(model: nn.Module, lr: float, **kwargs) -> Optimizer:
    """AdamW over the trainable parameters of ``model``; matrices decay, gains and biases do not.

    ``lr``: the peak rate, which the schedule multiplies. ``kwargs``: arguments of
    `torch.optim.AdamW`; by default betas (0.9, 0.95), weight decay 0.1, and torch's fused step
    where the device has one.
    """
    weight_decay = kwargs.pop("weight_decay", 0.1)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if "foreach" not in kwargs and all(p.device.type in FUSED_DEVICES for p in trained):
        kwargs.setdefault("fused", True)
    return torch.optim.AdamW(groups, lr=lr, **{"betas": (0.9, 0.95), **kwargs})


class OptimizerList(Optimizer):
    """Several optimisers over disjoint parameters that step, save and load as one.

    Mixed recipes (Muon for matrices, AdamW for the rest) then need no second code path in the
    training loop, in gradient scaling or in checkpoints. ``param_groups`` are the members' own
    groups, shared, so that a schedule reaches them.
    """

    def __init__(self, optimizers: Sequence[Optimizer]):
        self.optimizers = list(optimizers)
        self.defaults = {}
        self._refresh()

    def _refresh(self) -> None:
        self.param_groups = [group for o in self.optimizers for group in o.param_groups]

    @property
    def state(self) -> dict:  # type: ignore[override]  # made of the members' own
        return {key: value for o in self.optimizers for key, value in o.state.items()}

    def step(self, closure=None):
        for optimizer in self.optimizers:
            optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def train(self) -> None:
        switch_mode(self, training=True)

    def eval(self) -> None:
        switch_mode(self, training=False)

    def state_dict(self) -> dict:
        return {"optimizers": [o.state_dict() for o in self.optimizers]}

    def load_state_dict(self, state_dict: dict) -> None:
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self._refresh()


def as_one_optimizer(made: Optimizer | Sequence[Optimizer]) -> Optimizer:
    """What an optimiser factory returned, as one optimiser; anything else is a `TypeError`."""
    if isinstance(made, Optimizer):
        return made
    if isinstance(made, Sequence) and made and all(isinstance(o, Optimizer) for o in made):
        return made[0] if len(made) == 1 else OptimizerList(made)
    raise TypeError(f"expected a torch optimizer or a list of them, got {type(made).__name__}")


def members_of(optimizer: Optimizer) -> list[Optimizer]:
    """The optimisers behind ``optimizer``: those of an `OptimizerList`, else itself."""
    return optimizer.optimizers if isinstance(optimizer, OptimizerList) else [optimizer]


def has_modes(optimizer: Optimizer) -> bool:
    """Whether weights differ between training and evaluation, as with schedule-free optimisers."""
    return any(
        callable(getattr(member, "train", None)) and callable(getattr(member, "eval", None))
        for member in members_of(optimizer)
    )


def switch_mode(optimizer: Optimizer, training: bool) -> None:
    """Put the weights that are to be trained, or those to be evaluated, into the model."""
    for member in members_of(optimizer):
        switch = getattr(member, "train" if training else "eval", None)
        if callable(switch):
            switch()


def check_optimizer(optimizer: Optimizer, model: nn.Module) -> None:
    """Refuse an optimiser that the loop cannot step, whose rate it cannot set, or that trains nothing.

    Raises `FlopsFitError` that names its class.
    """
    for member in members_of(optimizer):
        name = type(member).__name__
        step = inspect.signature(type(member).step).parameters.values()
        if any(p.name == "closure" and p.default is p.empty for p in step):
            raise FlopsFitError(
                f"optimizer.factory: {name}.step() needs a closure that computes the loss again, and a "
                "run computes it once for each batch; allowed: an optimiser whose step() needs none"
            )
        if any(group.get("lr") is None for group in member.param_groups):
            raise FlopsFitError(
                f"optimizer.factory: {name} has no learning rate (lr) in its param_groups, so "
                "learning_rate and schedule would do nothing; allowed: an optimiser that has one"
            )
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in trained for p in model.parameters()):
        raise FlopsFitError(
            f"optimizer.factory: {type(optimizer).__name__} holds no parameter of the model; allowed: "
            "an optimiser over the parameters of the model that it is given"
        )
