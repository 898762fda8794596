"""What sizes cost where a user's own script trains them: as stated, or counted on a model.

The script's data and loss are its business, so a model is counted with one example item, and with the
sum of its outputs in the place of a loss.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.build import call
from flops_fit.experiment.placeholders import NAMES
from flops_fit.plan.counting import count_sizes
from flops_fit.plan.items import Items
from flops_fit.plugins.resolve import check_arguments, resolve
from flops_fit.sweep import ModelCount

NEEDED = ("params", "flops_per_token")
OPTIONAL = ("params_nonembedding", "params_total", "num_params", "activation_bytes")

Arguments = Callable[[Any], Mapping[str, Any]]


@dataclass
class ScriptCosts:
    """Counts sizes by ``count``, each once; ``items`` are those of the script's batch."""

    count: Callable[[Sequence], Mapping[Any, ModelCount]]
    items: Items
    _known: dict[Any, ModelCount] = field(default_factory=dict, init=False)

    def of(self, sizes: Sequence) -> dict[Any, ModelCount]:
        """The count of every one of ``sizes``."""
        new = [size for size in sizes if size not in self._known]
        if new:
            self._known |= self.count(new)
        return {size: self._known[size] for size in sizes}

    def warnings(self) -> list[str]:
        """Nothing: what was assumed to get a count is said with it."""
        return []

    def in_batch(self, size: Any, batch_items: int) -> ModelCount:
        """The count of ``size``, which is the same for all ``batch_items``."""
        return self.of([size])[size]


def script_costs(config: Mapping[str, Any], of_size: Arguments) -> ScriptCosts:
    """What sizes cost, by the sections ``counts`` or ``model`` of ``config``.

    ``of_size`` gives the arguments of a model by its size. Raises `FlopsFitError` for counts that no
    model has.
    """
    per_item = config["trainer"]["tokens_per_item"]
    counts = config.get("counts")
    if not counts:
        return _costs(_counted(config["model"], of_size, per_item), per_item)
    reference = counts.get("function")
    if reference is None:
        return stated_costs(counts["table"], "counts.table", per_item)
    function = resolve(reference)
    check_arguments(function, reference, {}, "counts.function", positional=1)
    return stated_costs(function, reference, per_item)


def stated_costs(
    counts: Callable[[Any], Any] | Mapping[Any, Any], name: str, tokens_per_item: int
) -> ScriptCosts:
    """What sizes cost, as the user's ``counts`` state it: a function of the size, or a table by size.

    ``name`` names ``counts`` in errors; an item of the batch brings ``tokens_per_item`` tokens.
    """

    def stated(size: Any) -> Any:
        return _called(counts, name, size) if callable(counts) else _row(name, counts, size)

    return _costs(lambda sizes: {s: _count_of(s, stated(s)) for s in sizes}, tokens_per_item)


def _costs(count: Callable[[Sequence], Mapping[Any, ModelCount]], per_item: int) -> ScriptCosts:
    return ScriptCosts(count, Items(tokens=per_item, positions=per_item))


def size_arguments(model: Mapping[str, Any]) -> Arguments:
    """The function from a size to the arguments of a model, by the section ``model`` of a config.

    It gives none where ``model`` has no ``size_map``. Raises `FlopsFitError` for a size that the map
    does not have, and for a name that a placeholder has already.
    """
    size_map = model.get("size_map", {})
    if isinstance(size_map, str):
        function = resolve(size_map)
        check_arguments(function, size_map, {}, "model.size_map", positional=1)
        return lambda size: _checked_arguments(size, _called(function, size_map, size))
    if not size_map:
        return lambda size: {}
    return lambda size: _checked_arguments(size, _row("model.size_map", size_map, size))


def _checked_arguments(size: Any, arguments: Any) -> Mapping[str, Any]:
    key = f"model.size_map.{size}"
    if not isinstance(arguments, Mapping):
        raise FlopsFitError(f"{key}: {arguments!r:.60}; allowed: a mapping of arguments")
    for name, value in arguments.items():
        if name in NAMES:
            raise FlopsFitError(f"{key}: {name} is a placeholder already; allowed: another name")
        if not isinstance(value, str | int | float | bool | None):
            raise FlopsFitError(f"{key}: {name}: {value!r:.60}; allowed: a number or text")
    return arguments


def _row(key: str, table: Mapping[Any, Any], size: Any) -> Any:
    if size not in table:
        known = ", ".join(map(str, sorted(table)))
        raise FlopsFitError(f"{key}: the size {size} is missing; it has {known}")
    return table[size]


def _called(function: Callable[..., Any], reference: str, size: Any) -> Any:
    return call(lambda: function(size), reference, {})


def _count_of(size: Any, stated: Any) -> ModelCount:
    """The count that the user states for ``size``; what is optional follows from ``params``."""
    key = f"counts: size {size}"
    if not isinstance(stated, Mapping):
        raise FlopsFitError(f"{key}: {stated!r:.60}; allowed: a mapping with {', '.join(NEEDED)}")
    if unknown := sorted(map(str, stated.keys() - {*NEEDED, *OPTIONAL})):
        raise FlopsFitError(f"{key}: {unknown[0]}; allowed: {', '.join((*NEEDED, *OPTIONAL))}")
    for name in (*NEEDED, *stated):
        value = stated.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None or not number or not 0 < value < float("inf"):
            shown = f"{value!r:.60}" if name in stated else "missing"
            raise FlopsFitError(f"{key}: {name}: {shown}; allowed: a number above zero")
    params = round(stated["params"])
    return ModelCount(
        num_params=round(stated.get("num_params", params)),
        params=params,
        params_nonembedding=round(stated.get("params_nonembedding", params)),
        params_total=round(stated.get("params_total", params)),
        flops_per_token=float(stated["flops_per_token"]),
        method="stated",
        activation_bytes=float(stated.get("activation_bytes", 0.0)),
    )


def _counted(
    model: Mapping[str, Any], of_size: Arguments, per_item: int
) -> Callable[[Sequence], dict[Any, ModelCount]]:
    """Counts the model that the factory builds at a size, or with the arguments of its size."""
    factory, name = resolve(model["factory"]), model.get("size_param")
    example = call(resolve(model["example"]), model["example"], {})
    if not isinstance(example, tuple) or len(example) != 2:
        raise FlopsFitError(
            f"model.example: {model['example']} returned {type(example).__name__}; allowed: a pair "
            "(inputs, targets)"
        )

    def build(size: Any, **kwargs: Any) -> Any:
        varied = {name: size} if name else dict(of_size(size))
        return factory(**varied, **kwargs)

    return lambda sizes: count_sizes(
        build, "size", sizes, model["kwargs"], example, _any_loss, per_item
    )


def _any_loss(outputs: Any, targets: Any) -> torch.Tensor:
    """A scalar that depends on all outputs of a model; a loss itself has no products to count."""
    leaves = [x for x in tree_leaves(outputs) if isinstance(x, torch.Tensor) and x.requires_grad]
    return torch.stack([leaf.float().mean() for leaf in leaves]).sum()
