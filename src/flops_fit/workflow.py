"""The bridge between Snakemake and the library: the plan, lazily, and what each rule asks of it.

A dry run lists exactly the experiments that will run, without torch: the plan is read from a file
keyed by everything that determines it. Only when there is none does a process of its own plan.
"""

import functools
import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from flops_fit.config.complete import complete_config
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import plan_file, plan_folder, run_folder, spec_file
from flops_fit.files import canonical_hash, read_json, write_atomic
from flops_fit.jobs.gpu_locks import cpu_by_choice
from flops_fit.jobs.launch import check_devices
from flops_fit.plan.amounts import check_amount
from flops_fit.plan.cache import SOURCES, plan_config, search_paths
from flops_fit.plan.price import (
    Price,
    Rate,
    job_megabytes,
    job_minutes,
    price,
    rate_for,
    work_of_spec,
)
from flops_fit.plugins.code import import_closure, remembered_sources
from flops_fit.plugins.data_files import find_path
from flops_fit.plugins.origin import OWN_FOLDER
from flops_fit.store.records import RECORD, RESULT, read_failure, read_record, set_aside
from flops_fit.store.verified import Verified, state_of

RESULTS = "results"
# Rooms whose code makes no step stale: what they do to a run is known by its id and the trainer's
# version. Merging the records is a step of its own.
LEFT_TO_IDS = ("flops_fit.training.", "flops_fit.jobs.", "flops_fit.store.")
MERGING = "flops_fit.store.collect"


class Sweep:
    """The configured sweep as the rules see it. Nothing is planned before a rule asks.

    ``read_only()``: whether results must stay as they are, under a dry run and within a job.
    """

    def __init__(self, config: dict, checkout: str, read_only: Callable[[], bool]):
        self.config = complete_config(config)
        self.name = self.config["name"]
        self.paths = search_paths([checkout])
        self.read_only = read_only  # known only once Snakemake has read all rules
        # Jobs call `python -m flops_fit`: let both be these, whatever environment is activated.
        prepend("PATH", os.path.dirname(sys.executable))
        if "site-packages" not in __file__:
            prepend("PYTHONPATH", str(Path(__file__).parents[1]))

    @property
    def trains(self) -> bool:
        """Whether there is anything to train; a table of existing runs is only fitted."""
        return self.config["runs"] is None

    @property
    def tunes_rate(self) -> bool:
        """Whether the sweep looks for the learning rate instead of the law."""
        return len(self.config["learning_rate_factors"]) > 1

    @property
    def confirms(self) -> bool:
        """Whether the sweep is one run, to be compared with what was predicted for it."""
        return self.config["confirm"] is not None

    def predicted(self) -> str:
        """What was predicted for that run, as JSON."""
        return json.dumps(self.config["confirm"])

    @property
    def runs_file(self) -> str:
        """The table of existing runs that the config names."""
        path = find_path(self.config["runs"], self.paths)
        if path is None:
            raise FlopsFitError(f"runs: {self.config['runs']!r} does not exist")
        return str(path)

    @functools.cached_property
    def plan(self) -> dict:
        """The plan, with results on disk checked before Snakemake looks at them."""
        plan = plan_config(self.config, RESULTS, self.paths)
        if not self.read_only():
            self._keep(plan)
        self._check_results(plan)
        self._check_amount(plan)
        return plan

    def _keep(self, plan: dict) -> None:
        """Write the plan where jobs look for it: under the sweep's, the check's and the data's name.

        Sweeps share data and checks, whose jobs therefore know no sweep.
        """
        names = [f"sweeps/{self.name}.json", f"checks/{Path(plan['check']).name}"]
        if plan["data_dir"]:
            names.append(f"data/{Path(plan['data_dir']).name}.json")
        content = plan_file(RESULTS, plan["fingerprint"]).read_bytes()
        for name in names:
            copy = plan_folder(RESULTS) / name
            if not copy.exists() or copy.read_bytes() != content:
                write_atomic(copy, content)

    def _check_amount(self, plan: dict) -> None:
        if Path(plan["check"]).exists():
            data, limits = read_json(plan["check"]), self.config["limits"]
            check_amount(data, plan["experiments"], limits["max_epochs"])

    def _check_results(self, plan: dict) -> None:
        """Move broken results and records aside (under a dry run: only name them).

        Snakemake never looks into outputs. What was verified before is not read again, and a result
        with the bytes of its sound record is sound.
        """
        verified = Verified(RESULTS)
        for row in plan["experiments"]:
            folder = run_folder(RESULTS, row["experiment_id"])
            record, result = folder / RECORD, folder / RESULT
            for path, twin in ((record, result), (result, record)):
                state = state_of(path, row["hash"])
                if state is None or verified.holds(path, state):
                    continue
                if verified.is_copy(path, twin, row["hash"]) or self._is_sound(path, row, folder):
                    verified.note(path, state)
        if not self.read_only():
            verified.save()

    def _is_sound(self, path: Path, row: dict, folder: Path) -> bool:
        try:
            read_record(path, row["experiment_id"], row["hash"])
            return True
        except FlopsFitError as error:
            kept = "to be moved aside" if self.read_only() else f"moved to {path.name}.corrupt"
            print(f"flops-fit: {error}; {kept}", file=sys.stderr)
        if not self.read_only():
            set_aside(path)
            if path.name == RECORD:  # without its record a result is no longer backed
                (folder / RESULT).unlink(missing_ok=True)
        return False

    @functools.cached_property
    def failed(self) -> list[str]:
        """Experiments that failed and are to be left out (only with ``accept_failures``)."""
        if not self.config["accept_failures"]:
            return []
        return [
            row["experiment_id"]
            for row in self.plan["experiments"]
            if not (run_folder(RESULTS, row["experiment_id"]) / RESULT).exists()
            and read_failure(run_folder(RESULTS, row["experiment_id"]), row["hash"])
        ]

    @functools.cached_property
    def experiments(self) -> list[str]:
        """Ids of the experiments to train."""
        failed, ids = set(self.failed), (row["experiment_id"] for row in self.plan["experiments"])
        return [experiment for experiment in ids if experiment not in failed]

    def request(self, experiment: str, gpus: int) -> tuple[int, int]:
        """Minutes and megabytes to ask a cluster for, at the first attempt, with that many GPUs."""
        resources = {**self.config["resources"], "gpus": gpus}
        if not cpu_by_choice(os.environ):
            check_devices(resources["processes"], gpus)
        cost = self.price(experiment, gpus)
        work = work_of_spec(read_spec(experiment))
        return job_minutes(cost), job_megabytes(work, cost, resources)

    @functools.cache  # noqa: B019 - Snakemake asks several times for every run
    def price(self, experiment: str, gpus: int) -> Price:
        """What one experiment is expected to take, with that many GPUs."""
        resources = {**self.config["resources"], "gpus": gpus}
        return price(work_of_spec(read_spec(experiment)), self.rate(gpus), resources)

    @functools.cache  # noqa: B019 - one sweep lives as long as the process
    def rate(self, gpus: int) -> Rate:
        """How fast one device trains this sweep."""
        return rate_for(self.config["pricing"], gpus, self.config["precision"], RESULTS)

    @functools.cached_property
    def content(self) -> str:
        """Hash of what the tables of this sweep are made from."""
        keys = ("experiments", "skipped", "convention")
        return canonical_hash({key: self.plan[key] for key in keys})[:16]

    def say_progress(self) -> None:
        """Start a process that says how far the sweep is after its runs, as long as this one lives."""
        if self.trains:
            subprocess.Popen(
                [sys.executable, "-m", "flops_fit", "progress", self.name,
                 "--follow", str(os.getpid())],
                stdout=sys.stderr, start_new_session=True,  # Ctrl-C is for Snakemake
            )  # fmt: skip

    def closing_words(self) -> str:
        """The answer and where the rest lies, to be printed when everything is done."""
        folder = Path(RESULTS, self.name)
        if self.tunes_rate:
            words = (folder / "logs" / "learning_rate.log").read_text().strip()
            return f"{words}\nfigure: {folder}/plots/learning_rate.svg"
        if self.confirms:
            return (folder / "confirmation.md").read_text().strip()
        table = (folder / "table.md").read_text()
        answers = table[table.index("## Answers") :].removeprefix("## Answers").strip()
        return f"{answers}\n\nreport: {folder}/report.html\nfigures: {folder}/plots/"

    def plan_words(self) -> str:
        """What the plan takes and what may go wrong, to be printed when only the plan was made."""
        folder = Path(RESULTS, self.name)
        lines = (folder / "logs" / "plan.log").read_text().splitlines()
        lines = [line for line in lines if not line.startswith("wrote ")]
        said = [line for line in lines if line.startswith("warning: ")]
        return "\n".join([*lines[-3:], *said, f"page: {folder}/plan.html"])

    def fit_options(self) -> str:
        """The fit settings as options of ``flops-fit fit``.

        Loss curves are handed over only where the envelope is asked for: the curves of decaying
        learning rates lie too high before their end, and would speak against the other estimators.
        """
        settings = options(self.config["fit"])
        if self.trains and self.config["fit"]["method"] == "envelope":
            settings += f" --curves {RESULTS}/{self.name}/results.json"
        return settings

    def plot_options(self) -> str:
        """The plot settings as options of ``flops-fit plot``."""
        return options(self.config["plot"])

    def pricing_options(self) -> str:
        """The pricing as options of ``flops-fit plan``, GPUs as the config has them."""
        return options(self.config["pricing"])

    def budget_options(self) -> str:
        """The budgets to answer for, as an option of ``flops-fit report``."""
        budgets = self.config["answer"]["budgets"]
        return " ".join(["--budgets", *(f"{budget:g}" for budget in budgets)]) if budgets else ""


@functools.cache
def read_spec(experiment: str) -> dict:
    """An experiment's spec: what a job may look at, whatever the config has become."""
    return read_json(spec_file(RESULTS, experiment))


def spec_value(experiment: str, key: str):
    """A value of an experiment's spec."""
    return read_spec(experiment)[key]


def code(verb: str) -> str:
    """Fingerprint of what runs under a verb of the command line, so that its step reruns with it."""
    with remembered_sources(plan_folder(RESULTS) / SOURCES):
        modules = code_of_verb(verb)
    return canonical_hash([modules, data_files_of(modules)])[:16]


def code_of_verb(verb: str) -> dict[str, str]:
    """Module -> digest of its source, of all that a verb imports, from its own file in ``cli`` on."""

    def left_to_ids(module: str) -> bool:
        return module.startswith(LEFT_TO_IDS) and not (module == MERGING and verb == "collect")

    return import_closure(f"flops_fit.cli.{verb}", left_to_ids)


def data_files_of(modules: Iterable[str]) -> dict[str, str]:
    """Name -> SHA-256 of the templates, style sheets and tables of the rooms that modules lie in."""
    rooms = {name.split(".")[1] for name in modules if name.count(".") > 1}
    return {
        f"{room}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for room in sorted(rooms)
        for path in sorted((OWN_FOLDER / room).iterdir())
        if path.is_file() and path.suffix != ".py"
    }


def prepend(variable: str, folder: str) -> None:
    """Put ``folder`` first in a search path of the environment."""
    os.environ[variable] = os.pathsep.join(filter(None, [folder, os.environ.get(variable)]))


def options(settings: dict) -> str:
    """Settings as options of a command, safe in a shell line; what is null is left out."""
    return " ".join(
        f"--{name.replace('_', '-')} {shlex.quote(str(value))}"
        for name, value in settings.items()
        if value is not None
    )
