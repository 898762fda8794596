"""Take part in a flops-fit sweep with a training script of your own.

    from flops_fit.run import current_experiment

    run = current_experiment(size=64, tokens=1e6, batch_items=32, tokens_per_item=128)
    model = GPT(n_embd=run.size)
    for step in range(run.steps):  # steps x batch_items x tokens_per_item = tokens, exactly
        ...
        run.log(tokens=seen, loss=loss)
        if run.should_stop:  # asked on every process, at the same steps
            save(run.folder)
            run.stopped()  # does not return; the job is started again and goes on
    run.finish(loss=heldout_loss, tokens=seen)

The same script runs alone, with the values that `current_experiment` is given, and in a sweep, with
those of the plan. This file needs Python's standard library alone, and may be copied.

A program in another language does the same with two JSON files: it reads the one that the variable
FLOPS_FIT_SPEC names, and leaves its result in the one that FLOPS_FIT_RESULT names, written beside it
and then renamed. docs/schemas describes both.
"""

import contextlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

FORMAT = 1  # of the two files
COMPLETED, DIVERGED, STOPPED, ERROR = "completed", "diverged", "stopped", "error"
FINAL = (COMPLETED, DIVERGED)  # where nothing is left to train
STOPPED_STATUS = 75  # EX_TEMPFAIL: the work is saved, start again
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
TRIAL_STEPS = 2  # where FLOPS_FIT_TRY is set, which asks whether the script runs at all
MOST_POINTS = 512  # of the loss curve
SECONDS = 1.0  # between two writes of the progress file, and between two votes on stopping
PROGRESS = "progress.json"
VERSIONS = ("accelerate", "jax", "numpy", "torch", "transformers")  # recorded where imported
MOST_FILES = 10_000  # that are noted; data of more files must be named by their folder
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
SHOWN = ("status", "reason", "loss", "metrics", "params", "tokens", "seconds")  # of a run alone
VALUES = ("size", "tokens", "steps", "batch_items", "tokens_per_item", "learning_rate", "seed")

_current: "Run | None" = None  # the run of this process, where it is part of a sweep
_said: set[str] = set()
_opened: dict[str, bool] = {}  # files that this process opened, and whether it also wrote them


def current_experiment(**values: Any) -> "Run":
    """The experiment that this process trains.

    In a sweep all values are the plan's, and ``values`` that differ are named once. A run alone has
    the ``values``: ``size``; ``tokens``, rounded to whole batches of ``batch_items`` items with
    ``tokens_per_item`` (1) tokens each, or else ``steps`` such batches; ``learning_rate``; ``seed``
    (0); ``folder`` (results/alone); ``arguments``, those of a model that has several dials. Raises
    `TypeError` for any other, and `ValueError` for a spec that a newer flops-fit wrote.
    """
    global _current
    if unknown := values.keys() - {*VALUES, "folder", "arguments"}:
        allowed = ", ".join((*VALUES, "folder", "arguments"))
        raise TypeError(f"current_experiment: {', '.join(sorted(unknown))}; allowed: {allowed}")
    values = {name: value for name, value in values.items() if value is not None}
    if _current is None:
        path = os.environ.get("FLOPS_FIT_SPEC")
        if not path:
            return Run(_alone(values), None)
        spec = json.loads(Path(path).read_text(encoding="utf-8"))
        if spec["format"] > FORMAT:
            raise ValueError(
                f"{path}: format {spec['format']}, which a newer flops-fit wrote; allowed: up to "
                f"{FORMAT}, so copy its flops_fit/run.py again"
            )
        _current = Run(spec, os.environ["FLOPS_FIT_RESULT"])
        sys.excepthook = _current._leave_error
    _current._compare(values)
    return _current


@contextlib.contextmanager
def as_current(spec: dict, result: str) -> Iterator["Run"]:
    """Within the block `current_experiment` is the run of ``spec``, which a function here trains.

    ``result`` is the path of its result file, which an exception also leaves. The handlers of
    signals are then restored.
    """
    global _current
    earlier, before = _current, {number: signal.getsignal(number) for number in STOP_SIGNALS}
    _current = run = Run(spec, result)
    try:
        yield run
    except Exception as error:
        caller = error.__traceback__.tb_next if error.__traceback__ else None
        run._note_error(type(error), error, caller and caller.tb_next)
        raise
    finally:
        _current = earlier
        with contextlib.suppress(ValueError):  # outside of Python's main thread
            for number, handler in before.items() if run._listening else ():
                signal.signal(number, handler)


def _alone(given: dict) -> dict:
    """The spec of a run alone: ``given``, completed, with tokens in whole batches."""
    spec = {"seed": 0, "tokens_per_item": 1, "folder": "results/alone", "arguments": {}, **given}
    if "batch_items" in spec:
        batch = spec["batch_items"] * spec["tokens_per_item"]
        if "steps" not in spec and "tokens" in spec:
            spec["steps"] = max(1, round(spec["tokens"] / batch))
        if "steps" in spec:
            spec["tokens"] = spec["steps"] * batch
    return {"experiment_id": "alone", "hash": "", **spec}


class Run:
    """One experiment: its values, and what the script has to say about it.

    Every process may call every method; only the process of rank 0 writes files. ``spec`` holds the
    values, ``result`` is the path of the result file (None: a run alone, whose result is printed).

    ``steps`` x ``batch_items`` x ``tokens_per_item`` = ``tokens``, exactly. ``folder`` is for the
    script's checkpoints; it is the same when the run is started again. ``arguments`` are those of a
    model that has several dials.
    """

    size: float
    tokens: int
    steps: int
    batch_items: int
    tokens_per_item: int
    learning_rate: float
    seed: int

    def __init__(self, spec: dict, result: str | None):
        vars(self).update({name: spec[name] for name in VALUES if spec.get(name) is not None})
        self.folder, self.arguments = Path(spec["folder"]), dict(spec["arguments"])
        self.in_sweep, self._result = result is not None, result
        self._name = {key: spec[key] for key in ("experiment_id", "hash")}
        self._trial = bool(os.environ.get("FLOPS_FIT_TRY"))
        if self._trial and "steps" in vars(self):
            self.steps = min(self.steps, TRIAL_STEPS)
            self.tokens = self.steps * self.batch_items * self.tokens_per_item
        self.folder.mkdir(parents=True, exist_ok=True)
        self._ended = False
        self._hook = sys.excepthook
        # Stopping
        self._listening = self._signalled = self._stop = False
        self._voted, self._interval, self._asks_left = 0.0, 1, 0
        # The curve: points (tokens, loss), as they were logged until the file is written
        self._points: list[tuple[Any, Any]] = []
        self._logged, self._every, self._next_write = 0, 1, 0.0
        self._started, self._seconds_before = time.monotonic(), 0.0
        self._resumes = self._go_on()

    def __getattr__(self, name: str) -> NoReturn:
        if name in VALUES:
            raise AttributeError(
                f"run.{name}: not known to a run alone; allowed: current_experiment({name}=...)"
            )
        raise AttributeError(f"a run has no attribute {name!r}")

    @property
    def is_main(self) -> bool:
        """Whether this is the process of rank 0, which writes the files."""
        distributed = _distributed()
        if distributed is not None:
            return distributed.get_rank() == 0
        return _from_launcher(0, "RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK") == 0

    def _compare(self, given: dict) -> None:
        """Name the values given for a run alone that are not the plan's."""
        pairs = [(n, getattr(self, n), value) for n, value in given.items() if n != "folder"]
        other = [f"{name} = {plan} (not {value})" for name, plan, value in pairs if plan != value]
        if other and self.is_main and not self._trial:
            _say(f"as planned: {', '.join(other)}")

    def log(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Note how far the run is, as often as you like: ``log(tokens=seen, loss=loss)``.

        ``values``, a dict, does the same as the keywords (``more``). All but ``tokens`` and ``loss``
        is left to other trackers. A tensor is read, which waits for its GPU, at most once a second.
        """
        self._logged += 1
        if self._logged % self._every and time.monotonic() < self._next_write:
            return
        if self._ended or not self.is_main:
            return
        values = {**(values or {}), **more}
        if values.get("tokens") is None or values.get("loss") is None:
            _say("run.log: a point of the loss curve needs both tokens and loss; left out")
            return
        self._points.append((_detached(values["tokens"]), _detached(values["loss"])))
        if self._resumes:  # what the last attempt trained after its checkpoint is trained again
            first = float(self._points[-1][0])
            self._points = [p for p in self._points[:-1] if p[0] < first] + self._points[-1:]
            self._resumes = False
        if len(self._points) >= MOST_POINTS:
            self._points, self._every = self._points[1::2], 2 * self._every
        if time.monotonic() >= self._next_write:
            self._write_progress()

    def _curve(self) -> dict[str, list]:
        """The points as plain numbers; a loss that is not finite has no place in them."""
        points = [(float(tokens), float(loss)) for tokens, loss in self._points]
        self._points = [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])]
        return {"tokens": [round(p[0]) for p in self._points], "loss": [p[1] for p in self._points]}

    def _write_progress(self) -> None:
        progress = {**self._name, "every": self._every, "seconds": self._seconds()}
        with contextlib.suppress(OSError):  # the run is worth more than its progress
            _write(self.folder / PROGRESS, {**progress, "curve": self._curve()})
        self._next_write = time.monotonic() + SECONDS

    def _go_on(self) -> bool:
        """Take over the curve and the time of earlier attempts; whether there were any."""
        earlier = _read(self.folder / PROGRESS)
        if not self.in_sweep or earlier.get("hash") != self._name["hash"]:
            return False
        self._every, self._seconds_before = earlier["every"], earlier["seconds"]
        self._points = list(zip(earlier["curve"]["tokens"], earlier["curve"]["loss"], strict=True))
        return True

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    @property
    def should_stop(self) -> bool:
        """Whether to save and call `stopped`: SIGTERM or SIGUSR1 has come to one of the processes.

        Where torch.distributed is at work the processes agree on it, by an all-reduce about once a
        second; so every process has to ask, at the same steps. With JAX see `signalled`.
        """
        if self._asks_left:
            self._asks_left -= 1
            return False
        signalled, distributed = self.signalled, _distributed()
        return signalled if distributed is None else self._stop or self._vote(distributed)

    def _vote(self, distributed: Any) -> bool:
        """Agree with all processes: whether to stop, and after how many questions to vote again."""
        import torch

        now = time.monotonic()
        pace = (now - self._voted) / self._interval if self._voted else SECONDS
        device = torch.device("cpu") if "gloo" in distributed.get_backend() else _device(torch)
        votes = torch.tensor([float(self._signalled), pace], device=device)
        distributed.all_reduce(votes, op=distributed.ReduceOp.MAX)
        stop, slowest = votes.tolist()
        self._voted, self._stop = now, stop > 0
        # At most twice as many as before: the first steps of a GPU only seem to take no time
        self._interval = max(1, min(2 * self._interval, int(SECONDS / max(slowest, 1e-6))))
        self._asks_left = 0 if self._stop else self._interval - 1
        return self._stop

    @property
    def signalled(self) -> bool:
        """Whether SIGTERM or SIGUSR1 has come to this process, from the first look on.

        Before it they end the process, as they would without this file. For JAX on several hosts:
        jax.experimental.multihost_utils.reached_preemption_sync_point.
        """
        if not self._listening:
            self._listening = True
            self._listen()
        return self._signalled

    def _listen(self) -> None:
        before = {number: signal.getsignal(number) for number in STOP_SIGNALS}

        def note(number, frame):
            self._signalled = True
            handler = before[number]
            if callable(handler):
                handler(number, frame)

        try:
            for number in STOP_SIGNALS:
                signal.signal(number, note)
        except ValueError:
            _say("run.should_stop: outside of Python's main thread, so no signal will be seen")

    def stopped(self) -> NoReturn:
        """End this process once a checkpoint lies in ``folder``; does not return.

        The experiment is then started again, and the script should go on from its checkpoint.
        """
        if self.is_main and not self._ended:
            self._write_progress()
            self._leave({"status": STOPPED})
        sys.exit(STOPPED_STATUS)

    def finish(self, loss, tokens, params=None, loss_se=None, metrics=None) -> None:
        """Hand over the result of a run that was trained to its end.

        ``loss`` is the held-out loss, above zero; where it is not finite the run has diverged.
        ``tokens`` is how many the run was really trained on. ``params``, the model's number of
        parameters, is compared with the plan, so that a model of another size does not go unseen.
        ``loss_se`` is the standard error of the loss; ``metrics`` are more numbers to be recorded.
        Raises `ValueError` for values that no run can have.
        """
        if not self.is_main:
            return
        loss, tokens = _number("loss", loss), _number("tokens", tokens)
        if tokens < 1 or not tokens.is_integer():
            raise ValueError(f"run.finish: tokens = {tokens:g}; allowed: a whole number above zero")
        if not math.isfinite(loss):
            self._end({"status": DIVERGED, "reason": f"the loss is {loss}", "tokens": int(tokens)})
            return
        if loss <= 0:
            raise ValueError(
                f"run.finish: loss = {loss:g}; allowed: above zero, as a scaling law takes logarithms"
            )
        outcome: dict = {"status": COMPLETED, "loss": loss, "tokens": int(tokens)}
        if params is not None:
            outcome["params"] = round(_number("params", params))
        if loss_se is not None:
            outcome["loss_se"] = _finite(_number("loss_se", loss_se))
        if metrics:
            outcome["metrics"] = {str(k): _finite(_number(k, v)) for k, v in metrics.items()}
        self._end(outcome)

    def diverged(self, reason: str) -> None:
        """Say that the run has no loss of use, and the ``reason``.

        That is a result: such a run is not trained again, and the fit names it and leaves it out.
        """
        if self.is_main:
            self._end({"status": DIVERGED, "reason": str(reason)})

    def _end(self, outcome: dict) -> None:
        if self._ended:
            _say("run.finish or run.diverged was called again; the first result counts")
            return
        self._write_progress()
        self._ended = True
        curve = self._curve()
        self._leave({"tokens": max(curve["tokens"], default=0), "curve": curve, **outcome})

    def _leave(self, outcome: dict) -> None:
        """Write the result, or print that of a run alone."""
        outcome = {
            "format": FORMAT,
            **self._name,
            "reason": "",
            **outcome,
            "seconds": self._seconds(),
            "world_size": _world_size(),
            "versions": _versions(),
            "try": self._trial,
        }
        if outcome["status"] in FINAL and _opened:
            outcome["used"] = _used()
        if self._result is None:
            with contextlib.suppress(OSError, ValueError, AttributeError):  # stdout may be closed
                print(json.dumps({k: outcome[k] for k in SHOWN if outcome.get(k)}), flush=True)
        elif not _commit(Path(self._result), outcome):
            _say("another process left a result before this one; the first result counts")

    def _leave_error(self, kind, error, traceback) -> None:
        """Leave the reason why the script failed, then let Python print its traceback."""
        self._note_error(kind, error, traceback)
        self._hook(kind, error, traceback)

    def _note_error(self, kind, error, traceback) -> None:
        """Leave the reason why the script failed."""
        if issubclass(kind, Exception):
            reason = f"{kind.__name__}: {error}"[:1000]
            with contextlib.suppress(OSError):  # the disk may be what failed
                self._leave({"status": ERROR, "reason": f"{reason} ({_place(traceback)})"})


def _distributed() -> Any:
    """torch.distributed, where the script has initialised it."""
    module = sys.modules.get("torch.distributed")
    return module if module and module.is_available() and module.is_initialized() else None


def _device(torch: Any) -> Any:
    """The device whose tensors the processes exchange."""
    newer = hasattr(torch, "accelerator")  # torch 2.6 and later
    return torch.accelerator.current_accelerator() if newer else torch.device("cuda")


def _world_size() -> int:
    distributed = _distributed()
    if distributed is not None:
        return distributed.get_world_size()
    return _from_launcher(1, "WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def _from_launcher(default: int, *variables: str) -> int:
    return next((int(os.environ[name]) for name in variables if name in os.environ), default)


def _detached(value: Any) -> Any:
    """A tensor's value without its graph, still unread, and safe from changes in place."""
    return value.detach().clone() if hasattr(value, "detach") else value


def _number(name: Any, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"run.finish: {name} = {value!r:.80}; allowed: a number") from None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no other numbers


def _versions() -> dict[str, str]:
    imported = {name: sys.modules[name] for name in VERSIONS if name in sys.modules}
    versions = {name: str(module.__version__) for name, module in imported.items()}
    return {"python": sys.version.split()[0], **versions}


def _note_opened(event: str, arguments: tuple) -> None:
    """Note a file that is opened; an audit hook, which cannot be removed and must not fail."""
    if event != "open":
        return
    try:
        path = os.path.abspath(os.fsdecode(arguments[0]))
        if path in _opened or len(_opened) < MOST_FILES:
            _opened[path] = _opened.get(path, False) or bool((arguments[2] or 0) & WRITING)
    except Exception:  # a file descriptor, among others
        return


def _used() -> list[str]:
    """What this process imported, or read without writing it; installed libraries are left out."""
    modules = [getattr(module, "__file__", None) for module in [*sys.modules.values()]]
    read = [path for path, written in [*_opened.items()] if not written]
    paths = [path for path in dict.fromkeys([*modules, *read]) if path and os.path.isabs(path)]
    library = (os.path.dirname(os.__file__), __file__)
    return [path for path in paths if "-packages" not in path and not path.startswith(library)]


def _place(traceback: Any) -> str:
    """The innermost line of the script in a traceback, or of a library where there is none."""
    place, in_script = "", False
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        elsewhere = (os.path.dirname(os.__file__), __file__, "<")
        library = "-packages" in file or file.startswith(elsewhere)
        if not library or not in_script:
            place = f"{os.path.basename(file)}:{traceback.tb_lineno}"
        in_script = in_script or not library
        traceback = traceback.tb_next
    return place


def _say(sentence: str) -> None:
    """Print a sentence once."""
    if sentence not in _said:
        _said.add(sentence)
        with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr may be closed
            print(f"flops-fit: {sentence}", file=sys.stderr, flush=True)


def _read(path: Path) -> dict:
    """A JSON object; an empty one where the file is missing or broken."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write_beside(path: Path, value: dict, flush: bool) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, allow_nan=False)
        if flush:
            file.flush()
            os.fsync(file.fileno())
    return temporary


def _write(path: Path, value: dict) -> None:
    _write_beside(path, value, flush=False).replace(path)


def _commit(path: Path, outcome: dict) -> bool:
    """Put a result in its place in one go; whether it counts.

    The first one does, but a completed or diverged run is worth more than one that was stopped or
    failed: where one process of several has failed, that of rank 0 may still finish.
    """
    temporary = _write_beside(path, outcome, flush=True)
    try:
        os.link(temporary, path)  # fails where there is one
    except FileExistsError:
        earlier = _read(path)
        if earlier.get("hash") == outcome["hash"] and (
            earlier.get("status") in FINAL or outcome["status"] not in FINAL
        ):
            return False
        temporary.replace(path)
    except OSError:  # a file system without hard links
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


if os.environ.get("FLOPS_FIT_SPEC"):  # a script may read its settings before it asks for the run
    sys.addaudithook(_note_opened)
