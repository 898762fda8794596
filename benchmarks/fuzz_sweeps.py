"""Random small sweeps, in the shapes that people have them, planned, checked, and trained in part.

    python benchmarks/fuzz_sweeps.py --sweeps 150 --trained 60

Every sweep must end in a plan whose inputs pass, or in a refusal of one line: never in a traceback
or a hang. What no law can take must not be accepted. The FLOPs of a trained run are counted apart
while it trains; where they are not those of its record, or of its plan and neither says so, that
is a mismatch. Prints one line of JSON with the counts; what failed is left in ``--keep``.
Exit status: 1 where anything failed.
"""

import contextlib
import importlib
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from fuzz_parts import IMPORTS, Parts, parts, pick
from fuzzing import Job, arguments, attempt, ends_of, jobs_of

TOLERANCE = 0.02
BAD = ("mismatch", "accepted", "late")
PREFIX = "fuzzed_"
OF_A_BATCH = "loss: an item costs more or less FLOPs in a larger batch"  # a plan's warning


def config_of(rng: np.random.Generator, drawn: Parts) -> dict:
    """A config around the plug-ins, with budgets that about fit the model and the data."""
    widths = sorted({int(w) for w in rng.choice([4, 8, 12, 16, 24, 32], int(rng.integers(1, 5)))})
    per_token = drawn.work[0] * widths[0] + drawn.work[1] * widths[0] ** 2
    low = per_token * 10 ** rng.uniform(2.5, 3.5)
    config: dict = {
        "name": "fuzz",
        "model": {"factory": f"{PREFIX}model:Net", "size_param": "width"},
        "dataset": {"factory": f"{PREFIX}data:data"},
        "budgets": [float(f"{low * 3**i:.3g}") for i in range(int(rng.integers(1, 4)))],
        "sizes": {"values": widths},
        "batch": batch_rule(rng),
        "learning_rate": rate_rule(rng),
        "evaluation": {
            "tokens": int(pick(rng, 16, 200, 2000)),
            "batch_items": int(pick(rng, 1, 8)),
        },
        "limits": {
            "min_steps": int(pick(rng, 2, 8)),
            "max_epochs": float(pick(rng, 1, 4, 100, 300, 300)),
        },
        "seeds": pick(rng, [0], [0], [0, 7]),
        "convention": pick(rng, "counted", "counted", "6nd"),
        "precision": pick(rng, "no", "no", "no", "bf16"),
        "deterministic": bool(rng.random() < 0.1),
        "schedule": {
            "kind": pick(rng, "cosine", "linear", "wsd", "constant"),
            "warmup": float(pick(rng, 0, 0.02, 0.3)),
            "final": float(pick(rng, 0, 0.1)),
        },
        "resources": {"micro_batch_items": pick(rng, None, None, 3)},
    }
    if drawn.loss is not None:
        config["loss"] = {"function": f"{PREFIX}loss:loss"}
    config["optimizer"] = {"clip_norm": pick(rng, None, 1.0)}
    if drawn.optimizer is not None:
        config["optimizer"]["factory"] = f"{PREFIX}optimizer:optimizer"
    if rng.random() < 0.1:
        config["learning_rate_factors"] = [0.5, 1, 2]
    return config


def batch_rule(rng: np.random.Generator) -> dict:
    return pick(
        rng,
        {"value": 64},
        {"value": 16},
        {"value": 128},
        {"value": 100, "multiple": 4},
        {"value": 64, "tokens": {"reference": 1e3, "power": 0.5}},
        {"value": 48, "params": {"reference": 1e3, "power": 0.3}},
        {"function": f"{PREFIX}rules:batch"},
    )


def rate_rule(rng: np.random.Generator) -> dict:
    return pick(
        rng,
        {"value": 0.003},
        {"value": 0.01, "params": {"reference": 1e3, "power": -0.3}},
        {"value": 0.002, "size": {"reference": 8, "power": -1}},
        {"value": 30.0} if rng.random() < 0.1 else {"value": 0.001},
        {"function": f"{PREFIX}rules:rate"},
    )


RULES = """
def batch(params, tokens, size):
    return max(8, int(tokens ** 0.5))

def rate(params, tokens, size):
    return 0.1 / size
"""


def write(folder: Path, drawn: Parts, config: dict) -> None:
    """The plug-ins as modules, and the config beside them for whoever looks into a failure."""
    texts = {
        "model": drawn.model,
        "data": drawn.data,
        "loss": drawn.loss,
        "rules": RULES,
        "optimizer": drawn.optimizer,
    }
    for name, text in texts.items():
        if text is not None:
            (folder / f"{PREFIX}{name}.py").write_text(IMPORTS + text)
    note = {"drawn": drawn.name, "must_refuse": drawn.must_refuse}
    (folder / "sweep.json").write_text(json.dumps(note | config, indent=1))


@contextlib.contextmanager
def project(folder: Path) -> Iterator[None]:
    """Work in ``folder`` as a new process would; its plug-ins are forgotten after, and nothing shown."""
    path, here = [*sys.path], os.getcwd()
    os.chdir(folder)
    importlib.invalidate_caches()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        os.chdir(here)
        sys.path[:] = path
        forget()


def forget() -> None:
    """Let plug-ins be imported anew, as by another process."""
    for name in [name for name in sys.modules if name.startswith(PREFIX)]:
        del sys.modules[name]


def check(spec, experiments: list) -> None:
    """What ``flops-fit check`` does."""
    from flops_fit.jobs.environment import clean_environment
    from flops_fit.jobs.gpu_locks import USE_CPU
    from flops_fit.plan.amounts import check_amount
    from flops_fit.trainer import train
    from flops_fit.training.checks import check_inputs

    with clean_environment(**{USE_CPU: "true"}):
        known = check_inputs(spec, train)
    check_amount(known, experiments, 1.0 if known.read_once else spec.max_epochs)


class Spent:
    """Counts the FLOPs of training steps while a job runs, by torch's own formulas.

    From a plug-in's call in training mode to the step of the optimiser; what is evaluated, checked or
    computed by the optimiser is no training. Kernels that hide their products are not used.
    """

    def __enter__(self) -> "Spent":
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.nn.modules.module import register_module_forward_pre_hook
        from torch.optim.optimizer import register_optimizer_step_pre_hook
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils.flop_counter import conv_flop_count, flop_registry

        outer = self
        outer.flops, outer.training = 0, False

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                kwargs = kwargs or {}
                operator = func._overloadpacket
                if operator not in flop_registry:
                    with self:
                        out = func.decompose(*args, **kwargs)
                    if out is not NotImplemented:
                        return out
                out = func(*args, **kwargs)
                if not outer.training or operator not in flop_registry:
                    return out
                if operator is torch.ops.aten.convolution_backward:  # torch's forgets the groups
                    one = conv_flop_count(args[1].shape, args[2].shape, args[0].shape, args[7])
                    outer.flops += one * sum(args[10][:2])
                else:
                    outer.flops += flop_registry[operator](*args, **kwargs, out_val=out)
                return out

        def called(module, inputs):
            if type(module).__module__.startswith(PREFIX) and module.training:
                outer.training |= torch.is_grad_enabled()

        def stepped(optimizer, *others):
            outer.training = False

        self.held = contextlib.ExitStack()
        for hook in (
            register_module_forward_pre_hook(called),
            register_optimizer_step_pre_hook(stepped),
        ):
            self.held.callback(hook.remove)
        self.held.enter_context(sdpa_kernel(SDPBackend.MATH))
        self.held.enter_context(torch.backends.mkldnn.flags(enabled=False))
        self.held.enter_context(Mode())
        return self

    def __exit__(self, *error) -> None:
        self.held.close()


def trained(folder: Path, experiment, warnings: list[str]) -> str:
    """Train one experiment as the launcher would, and hold its FLOPs against what was counted."""
    from flops_fit.experiment.places import run_folder, spec_file
    from flops_fit.jobs import job

    name, results = experiment.experiment_id, folder / "results"
    os.environ |= {
        "FLOPS_FIT_PROCESSES": "1",
        "FLOPS_FIT_GPUS": "0",
        "FLOPS_FIT_LAUNCHER": str(os.getppid()),
    }
    place = run_folder(results, name)
    with Spent() as spent:
        status = job.main([str(spec_file(results, name)), str(place / "result.json"), str(results)])
    if status:
        note = json.loads((place / "failure.json").read_text())
        (folder / "late.json").write_text(json.dumps(note))
        return "late"
    record = json.loads((place / "record.json").read_text())
    if record["status"] == "diverged":
        return "trained"
    flops = {
        "spent": spent.flops,
        "recorded": record["flops_counted"],
        "planned": experiment.flops_counted,
    }
    (folder / "flops.json").write_text(json.dumps(flops))
    off = {key: abs(value / spent.flops - 1) for key, value in flops.items()}
    if any(sentence.startswith(OF_A_BATCH) for sentence in warnings):  # and the batch may be split
        return "trained"
    wrong = off["recorded"] > TOLERANCE
    wrong |= off["planned"] > TOLERANCE and "flops_expected" not in record
    return "mismatch" if wrong else "trained"


def through_the_library(drawn: Parts, plan) -> str:
    """A generator, which only a process of its own makes anew, through the door of a notebook."""
    from flops_fit.errors import FlopsFitError
    from flops_fit.loss import cross_entropy
    from flops_fit.trainer import TrainingRunner

    plugins = [importlib.import_module(PREFIX + name) for name in ("model", "data")]
    try:
        TrainingRunner("local").run_sweep_from_plan(
            plan, plugins[0].Net, "width", {}, plugins[1].data(), cross_entropy
        )
    except FlopsFitError:
        return "refused"
    return "accepted"


def drive(rng: np.random.Generator, folder: Path, train: bool) -> str:
    """One sweep: "refused", "planned" or "trained"; or what must not be."""
    import torch

    from flops_fit.config.complete import complete_config
    from flops_fit.errors import FlopsFitError
    from flops_fit.experiment.places import spec_file
    from flops_fit.experiment.spec import read_spec
    from flops_fit.plan.planner import make_plan

    torch.set_num_threads(1)
    drawn = parts(rng)
    config = config_of(rng, drawn)
    write(folder, drawn, config)
    with project(folder):
        try:
            plan = make_plan(complete_config(config), "results", [str(folder)])
            smallest = min(plan.experiments, key=lambda e: e.count.params_total)
            spec = read_spec(spec_file("results", smallest.experiment_id))
            forget()
            check(spec, plan.experiments)
        except FlopsFitError as error:
            message = str(error)
            assert len(message.splitlines()) == 1, message
            (folder / "refused.txt").write_text(message)
            return "refused"
        if drawn.must_refuse:
            return "accepted"
        if drawn.once and len(plan) > 1 and through_the_library(drawn, plan) == "accepted":
            return "accepted"
        forget()
        return trained(folder, smallest, plan.warnings) if train else "planned"


def one(job: Job) -> str:
    return attempt(job, drive, BAD)


def main() -> int:
    args = arguments(__doc__, "sweeps", 150, "trained", 60, "sweeps of which a run is trained")
    ends = ends_of(one, jobs_of(args), args)
    counts = Counter(ends)
    known = {
        end: counts[end] for end in ("trained", "planned", "refused", "traceback", "hang", *BAD)
    }
    print(json.dumps({"sweeps": len(ends), **known}))
    return int(sum(counts[end] for end in ("traceback", "hang", *BAD)) > 0)


if __name__ == "__main__":
    sys.exit(main())
