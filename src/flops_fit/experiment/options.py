"""How an experiment is trained: which options decide its result, and which only how it runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from flops_fit.batch import Batches

# Raised by hand whenever the same spec would give another result; part of every experiment's hash.
TRAINER_VERSION = 1

COSINE = {"kind": "cosine", "warmup": 0.02, "decay": 0.2, "final": 0.0}  # the config's default


@dataclass(frozen=True)
class DecidingOptions:
    """The options of the trainer that decide a result, and therefore belong to its hash.

    Attributes:
        tokens: D in target elements, trained exactly.
        batch_items: the global batch of the first step in items.
        learning_rate: the peak of the learning rate.
        seed: of weights, order and dropout.
        schedule: of the learning rate, see `flops_fit.plan.schedule.rate_factor`.
        clip_norm: the largest norm of the gradient (None: no limit).
        precision: accelerate's mixed precision: no, bf16 or fp16.
        deterministic: whether only torch's deterministic algorithms are used.
        evaluation_tokens: how many target elements are held out.
        evaluation_batch_items: the batch of the evaluation in items.
        expected_items: how many items D is expected to take, where the loss ignores some targets or
            items differ in them (None: D is whole items); no batch of the plan is cut before.
        batch_growth: where the batch grows, as `flops_fit.batch.Batches` has it (empty: nowhere).
    """

    tokens: int
    batch_items: int
    learning_rate: float
    seed: int = 0
    schedule: dict = field(default_factory=lambda: dict(COSINE))
    clip_norm: float | None = None
    precision: str = "no"
    deterministic: bool = False
    evaluation_tokens: int = 65536
    evaluation_batch_items: int = 32
    expected_items: int | None = None
    batch_growth: list[list[int]] = field(default_factory=list)

    @property
    def largest_batch(self) -> int:
        """The global batch of the last step in items."""
        return Batches(self.batch_items, self.batch_growth).last

    def deciding(self) -> dict[str, Any]:
        """The options of this class by name.

        ``expected_items`` is there only where it is known, and ``batch_growth`` where the batch grows.
        """
        values = {f.name: getattr(self, f.name) for f in fields(DecidingOptions)}
        absent: dict[str, Any] = {"expected_items": None, "batch_growth": []}
        return {k: v for k, v in values.items() if k not in absent or v != absent[k]}


@dataclass(frozen=True)
class TrainOptions(DecidingOptions):
    """How to train: the `DecidingOptions`, and those that only decide how the run is executed.

    Attributes:
        max_epochs: how many passes over the data are allowed (None: as many as D needs).
        processes: how many processes must train together (None: any number).
        gpus: whether GPUs must be visible (0: not needed).
        micro_batch_items: items that a process computes at once (None: all of its share).
        compile: whether torch's inductor compiles the model.
        activation_checkpointing: whether activations are recomputed: less memory, more time.
        checkpoint_minutes: minutes between checkpoints.
        checkpoint_store: the URL to which they are copied, for other machines (None: they are not).
        loader_workers: processes that read data.
        log_with: a tracker of accelerate's, such as tensorboard.
        progress: whether to draw a progress bar.
    """

    max_epochs: float | None = None
    processes: int | None = None
    gpus: int = 0
    micro_batch_items: int | None = None
    compile: bool = False
    activation_checkpointing: bool = False
    checkpoint_minutes: float = 10
    checkpoint_store: str | None = None
    loader_workers: int = 0
    log_with: str | None = None
    progress: bool = True


def part_of_batch(batch_items: int, processes: int, micro_batch_items: int | None) -> int | None:
    """How many items of a global batch of ``batch_items`` pass the model together, None if all do.

    ``processes`` share the batch, and each of them computes ``micro_batch_items`` at once (None: all of
    its share).
    """
    share = -(-batch_items // processes)
    part = min(share, micro_batch_items or share)
    return part if part < batch_items else None


@dataclass(frozen=True)
class Resources:
    """The section ``resources`` of a config: what a run is given, which does not decide its result.

    Only where a layer normalises over a batch do ``processes`` and ``micro_batch_items`` decide, and
    then the recipe of the run says so.

    Attributes:
        processes: processes that train one experiment together.
        threads: CPU threads of each process.
        gpus: GPUs of a run (0: it trains on the CPU).
        micro_batch_items, compile, activation_checkpointing, checkpoint_minutes, checkpoint_store,
            loader_workers, log_with: as in `TrainOptions`.
        server: whether the workflow may fork runs from a process that has imported torch.
        max_minutes: the longest time limit that a job asks a cluster for (None: any).
        runs_per_gpu: runs that train on one GPU at the same time.
    """

    processes: int = 1
    threads: int = 1
    gpus: int = 0
    micro_batch_items: int | None = None
    compile: bool = False
    activation_checkpointing: bool = False
    checkpoint_minutes: float = 10
    checkpoint_store: str | None = None
    loader_workers: int = 0
    log_with: str | None = None
    server: bool = True
    max_minutes: int | None = None
    runs_per_gpu: int = 1

    @property
    def sharing(self) -> int:
        """How many runs share the device of one: none share it on the CPU."""
        return self.runs_per_gpu if self.gpus else 1

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Resources":
        """The resources of a config, a plan or a spec: ``value`` is that section."""
        return cls(**value)

    def to_dict(self) -> dict[str, Any]:
        """The section as plans and specs hold it, without the defaults of later versions.

        So plans and specs of versions that do not have ``server``, ``runs_per_gpu`` and
        ``checkpoint_store`` would be written the same. Only the workflow needs ``max_minutes``, and it
        reads the config.
        """
        section = {name: value for name, value in vars(self).items() if name != "max_minutes"}
        later = {"server": True, "runs_per_gpu": 1, "checkpoint_store": None}
        return {k: v for k, v in section.items() if k not in later or v != later[k]}

    def for_trainer(self) -> dict[str, Any]:
        """What the trainer reads of them, as fields of `TrainOptions`."""
        names = {f.name for f in fields(TrainOptions)}
        return {name: value for name, value in vars(self).items() if name in names}
