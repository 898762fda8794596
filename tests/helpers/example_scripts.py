"""The scripts of ``examples/scripts`` as trainers: a sweep of one run of some seconds for each."""

import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPTS, TEXT = ROOT / "examples" / "scripts", ROOT / "tests" / "data" / "text.txt"


@dataclass(frozen=True)
class Example:
    """A script, the section ``trainer`` of its sweep, and the FLOPs that take some seconds."""

    script: str
    trainer: dict
    budget: float
    batch: int
    params: int

    @property
    def config(self) -> dict:
        return {
            "name": "own",
            "trainer": {**self.trainer, "trial": False},
            "counts": {"table": {8: {"params": self.params, "flops_per_token": 48000}}},
            "budgets": [self.budget],
            "sizes": {"values": [8]},
            "batch": {"value": self.batch},
            "learning_rate": {"value": 0.01},
        }


def by_script(name: str, *arguments: str, tokens_per_item: int) -> dict:
    script = str(SCRIPTS / name)
    return {"script": script, "arguments": list(arguments), "tokens_per_item": tokens_per_item}


RESUME = ["--text", str(TEXT), "--out_dir", "{folder}", "--n_embd", "{size}", "--seed", "{seed}"]
RESUME += ["--max_iters", "{steps}", "--batch_size", "{batch_items}", "--save_every", "20"]
RESUME += ["--learning_rate", "{learning_rate}"]
GPT = ["--layers", "1", "--seq_len", "32", "--source", str(TEXT), "--data", "results/gpt"]
EXAMPLES = {
    "plain loop": Example(
        "gpt_loop.py",
        by_script("gpt_loop.py", *GPT, "--heldout", "2048", tokens_per_item=32),
        5e9,
        512,
        12 * 8**2 + 128 * 8,
    ),
    "transformers' Trainer": Example(
        "hf_trainer.py",
        by_script("hf_trainer.py", "--text", str(TEXT), tokens_per_item=64),
        2.5e9,
        512,
        6184,
    ),
    "its own resume": Example(
        "own_resume.py", by_script("own_resume.py", *RESUME, tokens_per_item=64), 1e10, 1024, 4784
    ),
    "numpy by command": Example(
        "numpy_mlp.py",
        {"command": [sys.executable, str(SCRIPTS / "numpy_mlp.py"), "--text", str(TEXT)]},
        1.5e10,
        64,
        1024 + 193 * 8,
    ),
}
