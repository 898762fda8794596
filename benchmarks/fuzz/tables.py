"""Random tables of runs, in the shapes that people have them."""

from pathlib import Path

import numpy as np
import pandas as pd

NAMES = {
    "params": ["params", "N", "num_params", "parameter_count", "Model Size", "config.n_params"],
    "tokens": ["tokens", "D", "n_tokens", "throughput/total_tokens", "tokens_trained"],
    "flops": ["flops", "C", "total_flos", "training_flops"],
    "loss": ["loss", "eval/loss", "val_loss", "final_loss", "train/loss", "val_bpb"],
    "run_id": ["run_id", "Name", "label", "experiment"],
}
ODD_NAMES = [
    "=1+1",
    "a|b",
    "<b>x</b>",
    "`x`",
    "naïve\nname",
    "x" * 300,
    "",
    "µ",
    "$HOME",
    "{x}",
    "NaN",
]


def law(rng: np.random.Generator):
    """L(N, D) of a random law, degenerate ones among them."""
    e = rng.choice([0.0, 0.5, 1.7, 3.0])
    a, b = 10 ** rng.uniform(1, 4, 2) * rng.choice([1] * 9 + [0], 2)
    alpha, beta = rng.uniform(0.25, 0.5, 2) * rng.choice([1] * 9 + [0.1, 3], 2)
    unit = rng.choice([1] * 12 + [1e-3, 1e3, 1e-12, 1e100])
    return lambda n, d: unit * (e + a * n**-alpha + b * d**-beta + 1e-9)


def sizes_and_tokens(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """N and D of the runs: a sweep, a ladder, one budget, one size, a cloud."""
    low = 10 ** (rng.uniform(12, 20) if rng.random() < 0.8 else rng.uniform(0, 12))
    span = 10 ** rng.choice([0.0, 0.1, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 8.0])
    budgets = np.geomspace(low, low * span, rng.choice([1, 2, 3, 3, 3, 3, 4, 4, 5, 6]))
    per = int(rng.choice([1, 3, 5, 5, 5, 6, 6, 7, 9]))
    kind = rng.choice(["sweep"] * 8 + ["ladder", "one size", "one horizon", "cloud"])
    c = np.repeat(budgets, per)
    width = rng.choice([1.0, 1.5, 4.0, 4.0, 4.0, 8.0, 8.0, 30.0])
    n = np.sqrt(c / 120) * np.tile(np.geomspace(1 / width, width, per), len(budgets))
    if kind == "ladder":
        n = np.sqrt(c / 120)
    if kind == "one size":
        n = np.full(len(c), np.sqrt(c[0] / 120))
    d = c / 6 / n
    if kind == "one horizon":
        d = np.full(len(c), d[0])
    if kind == "cloud":
        n, d = 10 ** rng.uniform(3, 10, len(c)), 10 ** rng.uniform(5, 12, len(c))
    whole = rng.random() < 0.7
    return tuple(np.maximum(np.round(v), 1) if whole else v for v in (n, d))


def losses(rng: np.random.Generator, n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Losses with noise and what goes wrong: outliers, ties, constants, luck alone."""
    loss = law(rng)(n, d) * np.exp(
        rng.choice([0, 0.001, 0.002, 0.002, 0.005, 0.02, 0.3]) * rng.standard_normal(len(n))
    )
    for factor in (0.01, 100.0, 1e-9, 1e9, 0.5):
        if rng.random() < 0.05:
            loss[rng.integers(len(loss))] *= factor
    kind = rng.random()
    if kind < 0.04:
        loss[:] = loss[0]
    elif kind < 0.08:
        loss = rng.uniform(1, 5, len(loss))
    elif kind < 0.12:
        loss = loss[::-1].copy()
    elif kind < 0.16:
        loss = np.round(loss, int(rng.integers(0, 3)))
    elif kind < 0.2:
        loss = loss[0] ** 2 / loss  # turned upside down
    return loss


def table(rng: np.random.Generator) -> pd.DataFrame:
    """A random table with our names for its columns."""
    n, d = sizes_and_tokens(rng)
    frame = pd.DataFrame({"params": n, "tokens": d, "loss": losses(rng, n, d)})
    if rng.random() < 0.5:
        frame["flops"] = (
            rng.choice([6] * 5 + [3, 9.5, 0.01]) * n * d * rng.choice([1, 1 + n.min() / n.max()])
        )
    for name, values in columns(rng, frame).items():
        if rng.random() < 0.08:
            frame[name] = values
    if rng.random() < 0.2:
        frame = pd.concat(
            [
                frame.assign(seed=s, loss=frame["loss"] * f)
                for s, f in enumerate(rng.uniform(0.99, 1.01, int(rng.integers(1, 4))))
            ]
        )
    if rng.random() < 0.1:
        parts = [
            frame.assign(tokens=frame["tokens"] * t, loss=frame["loss"] + 1 - t) for t in (0.5, 1)
        ]
        frame = pd.concat([p.assign(run_id=[f"r{i}" for i in range(len(p))]) for p in parts])
    frame = frame.reset_index(drop=True)
    if rng.random() < 0.15 and len(frame):
        at = frame.index[rng.integers(len(frame))], rng.choice(frame.columns)
        frame = frame.astype(object)
        frame.loc[at] = rng.choice(
            np.array(["", "nan", "inf", -1, 0, "70M", "x", 1e308, 1e-308], object)
        )
    if rng.random() < 0.1:
        frame = frame.drop(columns=rng.choice(frame.columns))
    if rng.random() < 0.1:
        frame = frame.sample(frac=rng.random(), random_state=0)
    return frame


def columns(rng: np.random.Generator, frame: pd.DataFrame) -> dict:
    """What else a table may hold."""
    n = len(frame)
    pick = rng.integers
    return {
        "run_id": [ODD_NAMES[i] for i in pick(len(ODD_NAMES), size=n)],
        "budget": np.round(6 * frame["params"] * frame["tokens"] / 1e3) * 1e3 + 1,
        "size": pick(1, 9, n) * 16,
        "width": [f"w{i}" for i in pick(4, size=n)],
        "dataset": [["c4", "pile", ODD_NAMES[2]][i] for i in pick(3, size=n)],
        "lr": 10.0 ** pick(-4, -1, n),
        "status": [["completed", "finished", "", "diverged"][i] for i in pick(4, size=n)],
        "outlier": pick(6, size=n) == 0,
        "epochs": 10.0 ** rng.uniform(-1, 2, n),
        "unique_tokens": frame["tokens"] / 10.0 ** rng.uniform(-1, 2),
        "params_total": frame["params"] * 1.5,
        "params_nonembedding": frame["params"] * pick(0, 2, n),
        "flops_per_token": 6 * frame["params"],
        "flops_counted": 8 * frame["params"] * frame["tokens"],
        "train_loss": frame["loss"] * 0.9,
    }


def written(rng: np.random.Generator, frame: pd.DataFrame, folder: Path) -> Path:
    """The table as a file, in one of many formats and with names of other projects."""
    names = {k: v[0] if rng.random() < 0.6 else rng.choice(v) for k, v in NAMES.items()}
    frame = frame.rename(columns=names)
    kind = rng.choice(["csv"] * 8 + ["tsv", "semicolons", "json", "jsonl", "columns", "folder"])
    path = folder / f"runs.{kind if kind in ('tsv', 'json', 'jsonl') else 'csv'}"
    if kind in ("csv", "tsv"):
        frame.to_csv(path, index=rng.random() < 0.1, sep="," if kind == "csv" else "\t")
    elif kind == "semicolons":
        frame.to_csv(path, index=False, sep=";", decimal=",")
    elif kind in ("json", "jsonl"):
        frame.to_json(path, orient="records", lines=kind == "jsonl")
    elif kind == "columns":
        path = folder / "runs.json"
        frame.to_json(path)
    else:
        path = folder / "exports"
        path.mkdir()
        for i in range(len(frame)):
            frame.iloc[[i]].to_csv(path / f"run{i}.csv", index=False)
    return path
