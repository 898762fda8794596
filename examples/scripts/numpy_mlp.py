"""A program that knows nothing of flops-fit: it reads one JSON file and writes another.

A language model of Bengio et al. (2003) in NumPy, gradients by hand: the next byte from the last
eight, by their embeddings and one hidden layer. Any language could do the same.

Alone, from the checkout: python examples/scripts/numpy_mlp.py
"""

import argparse
import json
import os

import numpy as np

CONTEXT, EMBEDDING, VOCABULARY = 8, 8, 128
ALONE = {"size": 32, "steps": 500, "batch_items": 64, "learning_rate": 0.01, "seed": 0}


def new_model(width, generator):
    def matrix(rows, columns):
        return generator.normal(size=(rows, columns)) / np.sqrt(rows)

    return {
        "embedding": generator.normal(size=(VOCABULARY, EMBEDDING)),
        "hidden": matrix(CONTEXT * EMBEDDING, width),
        "bias": np.zeros(width),
        "head": np.zeros((width, VOCABULARY)),
    }


def loss_and_gradients(model, contexts, targets):
    """The mean loss of predicting ``targets`` (n,) from ``contexts`` (n, CONTEXT), and its slopes."""
    n = len(targets)
    x = model["embedding"][contexts].reshape(n, -1)
    h = np.tanh(x @ model["hidden"] + model["bias"])
    logits = h @ model["head"]
    logits -= logits.max(axis=1, keepdims=True)
    p = np.exp(logits)
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(n), targets]).mean()

    p[np.arange(n), targets] -= 1
    slope = p / n  # of the loss by each logit
    before = (slope @ model["head"].T) * (1 - h**2)
    embedding = np.zeros_like(model["embedding"])
    np.add.at(embedding, contexts, (before @ model["hidden"].T).reshape(n, CONTEXT, EMBEDDING))
    return loss, {
        "embedding": embedding,
        "hidden": x.T @ before,
        "bias": before.sum(axis=0),
        "head": h.T @ slope,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", default="tests/data/text.txt")
    args = parser.parse_args()
    spec = ALONE
    if "FLOPS_FIT_SPEC" in os.environ:
        with open(os.environ["FLOPS_FIT_SPEC"]) as file:
            spec = json.load(file)
    text = np.minimum(np.fromfile(args.text, np.uint8), VOCABULARY - 1)
    windows = np.lib.stride_tricks.sliding_window_view(text, CONTEXT + 1)
    heldout, train = windows[: len(windows) // 10], windows[len(windows) // 10 :]

    generator = np.random.default_rng(spec["seed"])
    model = new_model(int(spec["size"]), generator)
    means = {name: np.zeros_like(weights) for name, weights in model.items()}
    squares = {name: np.zeros_like(weights) for name, weights in model.items()}
    for step in range(1, spec["steps"] + 1):
        batch = train[generator.integers(len(train), size=spec["batch_items"])]
        _, gradients = loss_and_gradients(model, batch[:, :-1], batch[:, -1])
        rate = spec["learning_rate"] * (1 - (step - 0.5) / spec["steps"])
        for name, g in gradients.items():  # Adam (Kingma and Ba 2015)
            means[name] += 0.1 * (g - means[name])
            squares[name] += 0.01 * (g**2 - squares[name])
            mean, square = means[name] / (1 - 0.9**step), squares[name] / (1 - 0.99**step)
            model[name] -= rate * mean / (np.sqrt(square) + 1e-8)

    loss, _ = loss_and_gradients(model, heldout[:, :-1], heldout[:, -1])
    result = {
        "format": 1,
        "experiment_id": spec.get("experiment_id", "alone"),
        "hash": spec.get("hash", ""),
        "status": "completed" if np.isfinite(loss) else "diverged",
        "tokens": spec["steps"] * spec["batch_items"],
        "params": sum(weights.size for weights in model.values()),
        **({"loss": float(loss)} if np.isfinite(loss) else {"reason": "the loss is not finite"}),
        **({"try": True} if "FLOPS_FIT_TRY" in os.environ else {}),
    }
    if "FLOPS_FIT_RESULT" in os.environ:
        with open(os.environ["FLOPS_FIT_RESULT"] + ".new", "w") as file:
            json.dump(result, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, os.environ["FLOPS_FIT_RESULT"])  # from here on the result counts
    else:
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
