"""A Hugging Face Trainer, with a callback between it and the sweep (pip install 'flops-fit[hf]').

Alone, from the checkout: python examples/scripts/hf_trainer.py
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, Subset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from flops_fit.run import current_experiment

SEQ_LEN, HEAD_DIM, VOCABULARY = 64, 8, 256  # a token is a byte
HELDOUT_EVERY = 12


class Windows(Dataset):
    """Windows of a text, as transformers' causal models take them: they shift the labels."""

    def __init__(self, file):
        tokens = np.frombuffer(Path(file).read_bytes(), np.uint8)
        self.windows = np.lib.stride_tricks.sliding_window_view(tokens, SEQ_LEN + 1)[::SEQ_LEN]

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, index):
        window = torch.from_numpy(self.windows[index].astype(np.int64))
        return {"input_ids": window, "labels": window}


class Report(TrainerCallback):
    """What the Trainer says goes to the run, and the run's request to stop to the Trainer."""

    def __init__(self, run):
        self.run, self.stopping = run, False

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in logs:
            tokens = state.global_step * self.run.batch_items * self.run.tokens_per_item
            self.run.log(tokens=tokens, loss=logs["loss"])

    def on_step_end(self, args, state, control, **_):
        self.stopping = self.run.should_stop and state.global_step < state.max_steps
        if self.stopping:
            control.should_save = control.should_training_stop = True
        return control


def model_of(size):
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=size,
            intermediate_size=4 * size,
            num_hidden_layers=2,
            num_attention_heads=size // HEAD_DIM,
            num_key_value_heads=size // HEAD_DIM,
            vocab_size=VOCABULARY,
            max_position_embeddings=SEQ_LEN + 1,
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", default="tests/data/text.txt")
    args = parser.parse_args()
    run = current_experiment(
        size=32, tokens=1e5, batch_items=16, tokens_per_item=SEQ_LEN, learning_rate=0.01
    )
    windows = Windows(args.text)
    heldout = Subset(windows, range(0, len(windows), HELDOUT_EVERY))
    train = Subset(windows, [i for i in range(len(windows)) if i % HELDOUT_EVERY])
    settings = TrainingArguments(
        output_dir=str(run.folder),
        max_steps=run.steps,
        learning_rate=run.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(0.02 * run.steps),
        seed=run.seed,
        logging_steps=max(1, run.steps // 100),
        save_strategy="no",  # only where the run is to stop
        report_to="none",
        disable_tqdm=True,
    )
    items, rest = divmod(run.batch_items, settings.world_size)
    assert not rest, f"{run.batch_items} items cannot be shared by {settings.world_size} processes"
    settings.per_device_train_batch_size = items
    torch.manual_seed(run.seed)
    report = Report(run)
    trainer = Trainer(
        model_of(run.size), settings, train_dataset=train, eval_dataset=heldout, callbacks=[report]
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(run.folder))
    if report.stopping:
        run.stopped()
    loss = trainer.evaluate()["eval_loss"]
    run.finish(loss=loss, tokens=run.tokens, params=trainer.model.num_parameters())


if __name__ == "__main__":
    main()
