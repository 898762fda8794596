"""Data that are wrong in a random way."""

from dataclasses import replace

import numpy as np
from parts import Parts, pick


def with_data(rng: np.random.Generator, parts: Parts) -> Parts:
    """The same data, now and then spoilt: too few, targets that are NaN, a weighted sampler."""
    single = "DataLoader" not in parts.data and ".once" not in parts.name
    if parts.name.startswith("tokens") or not single or rng.random() < 0.8:
        return parts
    text = parts.data.replace("def data():", "def clean():")
    kind = pick(rng, "few", "nan", "nan", "weighted", "empty")
    if kind == "nan" and parts.targets != "floats":
        kind = "weighted"
    body = {
        "few": "torch.utils.data.Subset(items, range(40))",
        "empty": "torch.utils.data.Subset(items, [])",
        "nan": "[(x, torch.full_like(y, float('nan')) if i % 50 == 7 else y) "
        "for i, (x, y) in enumerate(items)]",
        "weighted": "DataLoader(items, 8, sampler=torch.utils.data.WeightedRandomSampler("
        "torch.arange(1.0, len(items) + 1), len(items)))",
    }[kind]
    text += f"\ndef data():\n    items = clean()\n    return {body}\n"
    refuse = {"nan": "targets that are NaN", "weighted": "a weighted sampler", "empty": "no items"}
    return replace(
        parts,
        data=text,
        must_refuse=refuse.get(kind, parts.must_refuse),
        name=f"{parts.name}, {kind}",
    )
