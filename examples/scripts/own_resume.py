"""A script that resumes by itself, in the manner of nanoGPT: three lines of it are for the sweep.

It takes its settings from the command line and saves every so many steps, whether it is to stop or
not: a run that is killed goes on from its last checkpoint. Several processes share a batch.

Alone, from the checkout: python examples/scripts/own_resume.py
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as distributed
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from flops_fit.run import current_experiment

VOCABULARY = 256  # a token is a byte


class Model(nn.Module):
    """Next bytes from all before, by a recurrent network with dropout."""

    def __init__(self, width):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.body = nn.GRU(width, width, batch_first=True)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, tokens):
        return self.head(self.dropout(self.body(self.embedding(tokens))[0]))


def settings():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", default="tests/data/text.txt")
    parser.add_argument("--out_dir", type=Path, default=Path("results/own-resume"))
    parser.add_argument("--n_embd", type=int, default=32)
    parser.add_argument("--block_size", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--max_iters", type=int, default=200)
    parser.add_argument("--learning_rate", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save_every", type=int, default=50)
    return parser.parse_args()


def loss_of(model, windows, device):
    windows = torch.from_numpy(windows.astype(np.int64)).to(device)
    return cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


def main():
    args = settings()
    run = current_experiment()  # 1
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if gpu else "cpu"
    if world > 1:
        distributed.init_process_group("nccl" if gpu else "gloo")
    text = np.frombuffer(Path(args.text).read_bytes(), np.uint8)
    heldout, train = text[: len(text) // 10], text[len(text) // 10 :]
    windows = np.lib.stride_tricks.sliding_window_view(train, args.block_size + 1)
    torch.manual_seed(args.seed)
    model = Model(args.n_embd).to(device)
    shared = DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), args.learning_rate)

    step, saved = 0, args.out_dir / "checkpoint.pt"
    if saved.exists():
        state = torch.load(saved, map_location=device)
        step = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    while step < args.max_iters:
        if step and step % args.save_every == 0 and rank == 0:
            args.out_dir.mkdir(parents=True, exist_ok=True)
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({"step": step, **state}, f"{saved}.new")
            os.replace(f"{saved}.new", saved)
        # Batch and dropout follow from the step alone, so there is no generator to save
        places = np.random.default_rng((args.seed, step)).integers(
            len(windows), size=args.batch_size
        )
        torch.manual_seed((args.seed * args.max_iters + step) * world + rank)
        loss = loss_of(shared, windows[places[rank::world]], device)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        run.log(tokens=step * args.batch_size * args.block_size, loss=loss)  # 2

    model.eval()
    with torch.no_grad():
        parts = np.lib.stride_tricks.sliding_window_view(heldout, args.block_size + 1)
        loss = loss_of(model, parts[:: args.block_size], device)
    tokens = args.max_iters * args.batch_size * args.block_size
    params = sum(p.numel() for p in model.parameters())
    run.finish(loss=loss, tokens=tokens, params=params)  # 3
    if world > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
