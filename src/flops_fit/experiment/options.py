"""How an experiment is trained: what decides its result, and what only decides how it runs."""

from dataclasses import dataclass, field

# Raised by hand whenever the same spec would give another result; part of every experiment's hash.
TRAINER_VERSION = 1

COSINE = {"kind": "cosine", "warmup": 0.02, "decay": 0.2, "final": 0.0}  # the config's default


@dataclass(frozen=True)
class TrainOptions:
    """How to train: first what decides the result, then (from ``processes`` on) what does not.

    - ``tokens``: D, exactly. ``batch_items``: global batch. ``learning_rate``: the peak.
      ``seed``: of weights, order and dropout.
    - ``schedule``: of the learning rate, see `flops_fit.plan.schedule.multiplier`.
    - ``clip_norm``: largest norm of the gradient (None: no limit).
    - ``precision``: accelerate's mixed precision: no, bf16 or fp16.
    - ``deterministic``: torch's deterministic algorithms only.
    - ``evaluation_tokens``, ``evaluation_batch_items``: how much is held out, and its batch.
    - ``expected_items``: how many items D is expected to take, where the loss ignores some targets or
      items differ in them (None: D is whole items); no batch of the plan is cut before.
    - ``max_epochs``: passes over the data that are allowed (None: as many as D needs).
    - ``processes``: refused where another number runs (None: any). ``gpus``: refused where the job
      sees none, unless 0.
    - ``micro_batch_items``: items of a process that are computed at once (None: all).
    - ``compile``: by torch's inductor. ``activation_checkpointing``: less memory, more time.
    - ``checkpoint_minutes``: between checkpoints. ``loader_workers``: processes that read data.
    - ``log_with``: a tracker of accelerate's, such as tensorboard. ``progress``: whether to draw a
      bar.
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
    max_epochs: float | None = None
    processes: int | None = None
    gpus: int = 0
    micro_batch_items: int | None = None
    compile: bool = False
    activation_checkpointing: bool = False
    checkpoint_minutes: float = 10
    loader_workers: int = 0
    log_with: str | None = None
    progress: bool = True


def options_of(spec: dict, processes: int | None = None, gpus: int = 0) -> TrainOptions:
    """The training options of a spec, for the processes and GPUs that its job was given."""
    identity, resources = spec["identity"], spec["resources"]
    return TrainOptions(
        tokens=identity["tokens"],
        batch_items=identity["batch_items"],
        learning_rate=identity["learning_rate"],
        seed=identity["seed"],
        schedule=identity["schedule"],
        clip_norm=identity["optimizer"]["clip_norm"],
        precision=identity["precision"],
        deterministic=identity["deterministic"],
        evaluation_tokens=identity["evaluation"]["tokens"],
        evaluation_batch_items=identity["evaluation"]["batch_items"],
        expected_items=identity.get("expected_items"),
        max_epochs=spec["max_epochs"],
        processes=processes,
        gpus=gpus,
        micro_batch_items=resources["micro_batch_items"],
        compile=resources["compile"],
        activation_checkpointing=resources["activation_checkpointing"],
        checkpoint_minutes=resources["checkpoint_minutes"],
        loader_workers=resources["loader_workers"],
        log_with=resources["log_with"],
    )
