"""The default optimiser, several optimisers used as one, and the checks of an optimiser."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer

from flops_fit.errors import FlopsFitError

FUSED_DEVICES = ("cpu", "cuda", "xpu", "mps")  # devices for which torch has fused steps


def adamw(model: nn.Module, lr: float, **kwargs: Any) -> Optimizer:
    """Return AdamW over the trainable parameters of ``model``, with weight decay of matrices only.

    ``lr`` is the peak learning rate, which the schedule multiplies. ``kwargs`` are arguments of
    `torch.optim.AdamW`; the defaults are betas (0.9, 0.95), weight decay 0.1, and torch's fused
    step where the device has one.
    """
    weight_decay = kwargs.pop("weight_decay", 0.1)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fusible = all(p.device.type in FUSED_DEVICES and p.is_floating_point() for p in trained)
    if "foreach" not in kwargs and fusible:
        kwargs.setdefault("fused", True)
    return torch.optim.AdamW(groups, lr=lr, **{"betas": (0.9, 0.95), **kwargs})


class OptimizerList(Optimizer):
    """Several ``optimizers`` over disjoint parameters that step, save and load as one.

    A mixed recipe (Muon for matrices, AdamW for the rest) then needs no second code path in the
    training loop, in gradient scaling or in checkpoints. ``param_groups`` holds the groups of the
    members themselves, so that a schedule changes their rates.
    """

    def __init__(self, optimizers: Sequence[Optimizer]):
        self.optimizers = list(optimizers)
        self.defaults = {}
        self._refresh()

    def _refresh(self) -> None:
        self.param_groups = [group for o in self.optimizers for group in o.param_groups]

    @property
    def state(self) -> dict:  # type: ignore[override]
        """The states of all members by parameter."""
        return {key: value for o in self.optimizers for key, value in o.state.items()}

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step all members; ``closure`` is passed on to each of them."""
        for optimizer in self.optimizers:
            optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all members: to None where ``set_to_none`` is true, else to zero."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def train(self) -> None:
        """Put the weights to train into the model, see `switch_mode`."""
        switch_mode(self, training=True)

    def eval(self) -> None:
        """Put the weights to evaluate into the model, see `switch_mode`."""
        switch_mode(self, training=False)

    def state_dict(self) -> dict:
        """Return the states of all members for a checkpoint."""
        return {"optimizers": [o.state_dict() for o in self.optimizers]}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore all members from ``state_dict``, which the method of that name returned."""
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self._refresh()


def build_optimizer(factory: Any, model: nn.Module, lr: float, **kwargs: Any) -> Any:
    """Return what ``factory(model, lr, **kwargs)`` returns.

    A class of optimisers, such as `torch.optim.SGD`, is called with the trainable parameters of
    ``model`` instead of the model.
    """
    if isinstance(factory, type) and issubclass(factory, Optimizer):
        trained = [p for p in model.parameters() if p.requires_grad]
        return cast(Any, factory)(trained, lr=lr, **kwargs)
    return factory(model, lr, **kwargs)


def as_one_optimizer(made: Optimizer | Sequence[Optimizer]) -> Optimizer:
    """Return what an optimiser factory made as one optimiser.

    ``made`` is a torch optimiser or a sequence of them. Raises TypeError for anything else.
    """
    if isinstance(made, Optimizer):
        return made
    if isinstance(made, Sequence) and made and all(isinstance(o, Optimizer) for o in made):
        return made[0] if len(made) == 1 else OptimizerList(made)
    raise TypeError(
        f"the factory returned a {type(made).__name__}; allowed: a torch optimizer or a list of them"
    )


def members_of(optimizer: Optimizer) -> list[Optimizer]:
    """Return the members of ``optimizer`` where it is an `OptimizerList`, else itself in a list."""
    return optimizer.optimizers if isinstance(optimizer, OptimizerList) else [optimizer]


def has_modes(optimizer: Optimizer) -> bool:
    """Whether ``optimizer`` evaluates other weights than it trains, as schedule-free ones do."""
    return any(
        callable(getattr(member, "train", None)) and callable(getattr(member, "eval", None))
        for member in members_of(optimizer)
    )


def switch_mode(optimizer: Optimizer, training: bool) -> None:
    """Put the weights of ``optimizer`` into the model: to train them, or to evaluate them.

    ``training`` tells which. An optimiser without ``train`` and ``eval`` has only one set of
    weights, and nothing happens.
    """
    for member in members_of(optimizer):
        switch = getattr(member, "train" if training else "eval", None)
        if callable(switch):
            switch()


def check_optimizer(optimizer: Optimizer, model: nn.Module) -> None:
    """Check that the training loop can step ``optimizer``, set its rate, and train ``model`` with it.

    Raises `FlopsFitError` that names the class of the optimiser.
    """
    for member in members_of(optimizer):
        name = type(member).__name__
        step = inspect.signature(type(member).step).parameters.values()
        if any(p.name == "closure" and p.default is p.empty for p in step):
            raise FlopsFitError(
                f"optimizer.factory: {name}.step() needs a closure that computes the loss again, but a "
                "run computes it once per batch; allowed: an optimiser whose step() needs no closure"
            )
        if any(group.get("lr") is None for group in member.param_groups):
            raise FlopsFitError(
                f"optimizer.factory: {name} has no learning rate (lr) in its param_groups, so "
                "learning_rate and schedule would have no effect; allowed: an optimiser with a "
                "learning rate"
            )
        scheduled = [g for g in member.param_groups if "initial_lr" in g]
        if any(float(group["lr"]) != float(group["initial_lr"]) for group in scheduled):
            raise FlopsFitError(
                f"optimizer.factory: a scheduler has changed the learning rate of {name} from "
                f"{float(scheduled[0]['initial_lr']):g} to {float(scheduled[0]['lr']):g}; allowed: an "
                "optimiser without a scheduler, since learning_rate is the peak and schedule changes it"
            )
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in trained for p in model.parameters()):
        raise FlopsFitError(
            f"optimizer.factory: {type(optimizer).__name__} has no parameter of the model; allowed: an "
            "optimiser over the parameters of the model that the factory receives"
        )
