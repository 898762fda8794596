"""The bridge between Snakemake and the library: the plan, lazily, and what each rule asks of it.

A dry run lists exactly the experiments that will run, without torch: the plan is read from a file
keyed by everything that determines it. Only when there is none does a process of its own plan.
"""

import functools
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flops_fit.config.complete import complete_config
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import (
    plan_folder,
    run_folder,
    spec_file,
    sweep_folder,
    sweep_plan_file,
)
from flops_fit.experiment.used import keep_late, references_of
from flops_fit.files import canonical_hash, read_json
from flops_fit.jobs.gpu_locks import cpu_by_choice
from flops_fit.jobs.launch import check_devices
from flops_fit.jobs.progress import Progress
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
from flops_fit.plugins.origin import INSTALLED, OWN_FOLDER
from flops_fit.store.collect import edited_tables
from flops_fit.store.plan_file import keep_plan
from flops_fit.store.records import RECORD, RESULT, read_failure, read_record, set_aside
from flops_fit.store.verified import Verified, state_of

RESULTS = "results"
# Rooms whose code makes no step stale: what they do to a run is known by its id and the trainer's
# version. Merging the records is a step of its own.
LEFT_TO_IDS = ("flops_fit.training.", "flops_fit.jobs.", "flops_fit.store.")
MERGING = "flops_fit.store.collect"
NO_PROFILE = (
    "flops-fit: the rerun triggers of profiles/default are not in force: another wording of a rule "
    "starts every run again (to be restored from its record). Start Snakemake where "
    "profiles/default lies, or beside its Snakefile, or give --rerun-triggers mtime params input"
)
EDITED = "edited since it was collected (to fit a table of your own, name it under runs)"


class Sweep:
    """The configured sweep as the rules see it. Nothing is planned before a rule asks."""

    def __init__(self, config: dict, checkout: str):
        self.config = complete_config(config)
        self.name = self.config["name"]
        self.paths = search_paths([checkout])

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

    def make_plan(self) -> "PlannedSweep":
        """Plan the sweep, or read its plan where nothing that determines it has changed."""
        return PlannedSweep(self.config, plan_config(self.config, RESULTS, self.paths))

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
        """How fast one device trains this sweep: without GPUs, whichever is named, a CPU thread."""
        pricing = self.config["pricing"]
        pricing = pricing if gpus else {**pricing, "device": None}
        return rate_for(pricing, gpus, self.config["precision"], RESULTS)

    def summary(self) -> str:
        """The answer and where the rest lies, to be printed when everything is done."""
        figures = sweep_folder(RESULTS, self.name) / "plots"
        if self.tunes_rate:
            return f"{self._read('learning_rate.txt')}\nfigure: {figures}/learning_rate.svg"
        if self.confirms:
            return self._read("confirmation.md")
        page = sweep_folder(RESULTS, self.name) / "report.html"
        return f"{self._read('answer.txt')}\n\nreport: {page}\nfigures: {figures}/"

    def plan_summary(self) -> str:
        """What the plan takes and what may go wrong, to be printed when only the plan was made."""
        return f"{self._read('plan.txt')}\npage: {sweep_folder(RESULTS, self.name)}/plan.html"

    def _read(self, name: str) -> str:
        return (sweep_folder(RESULTS, self.name) / name).read_text().strip()

    def fit_options(self) -> str:
        """The fit settings as options of ``flops-fit fit``.

        Loss curves are handed over only where the envelope is asked for: the curves of decaying
        learning rates lie too high before their end, and would speak against the other estimators.
        """
        settings = options(self.config["fit"])
        if self.trains and self.config["fit"]["method"] == "envelope":
            settings += f" --curves {sweep_folder(RESULTS, self.name)}/results.json"
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


@dataclass(frozen=True)
class PlannedSweep:
    """A sweep with its plan. `keep` and `set_broken_aside` write, everything else only reads."""

    config: dict
    plan: dict

    @property
    def kept(self) -> tuple[str, str]:
        """Where `keep` leaves the plan for those who know the sweep by its name, and the results."""
        return str(sweep_plan_file(RESULTS, self.config["name"])), RESULTS

    def keep(self) -> None:
        """Write the plan where jobs look for it."""
        keep_plan(self.plan, self.config["name"], RESULTS)

    def set_broken_aside(self) -> None:
        """Move broken results and records aside, before Snakemake, which never looks into them."""
        for path in edited_tables(RESULTS, self.config["name"]):
            say(f"{path}: {EDITED}; moved to {path.name}.edited, and made again")
            set_aside(path, "edited")
        verified = Verified(RESULTS)
        for path, error in self._broken(verified, watch=True):
            say(f"{error}; moved to {path.name}.corrupt")
            set_aside(path)
            if path.name == RECORD:  # without its record a result is no longer backed
                path.with_name(RESULT).unlink(missing_ok=True)
        verified.save()

    def name_broken(self) -> None:
        """Name the files that `set_broken_aside` would move."""
        for path in edited_tables(RESULTS, self.config["name"]):
            say(f"{path}: {EDITED}; to be moved aside, and made again")
        for _, error in self._broken(Verified(RESULTS)):
            say(f"{error}; to be moved aside")

    def _broken(
        self, verified: Verified, watch: bool = False
    ) -> Iterator[tuple[Path, FlopsFitError]]:
        """Results and records that are not sound, one after another; the sound ones are noted.

        With ``watch``, what only the jobs of sound ones saw is watched from now on.

        What was verified before is not read again, and a result with the bytes of its sound record
        is sound.
        """
        for row in self.plan["experiments"]:
            folder = run_folder(RESULTS, row["experiment_id"])
            record, result = folder / RECORD, folder / RESULT
            for path, twin in ((record, result), (result, record)):
                state = state_of(path, row["hash"])
                if state is None or verified.holds(path, state):
                    continue
                if not verified.is_copy(path, twin, row["hash"]):
                    try:
                        sound = read_record(path, row["experiment_id"], row["hash"])
                    except FlopsFitError as error:
                        yield path, error
                        continue
                    if watch and sound.get("late"):
                        keep_late(RESULTS, references_of(sound["identity"]), sound["late"])
                verified.note(path, state)

    def check_amount(self) -> None:
        """Refuse a sweep for which there are too few data, once their check has counted them."""
        if Path(self.plan["check"]).exists():
            data, limits = read_json(self.plan["check"]), self.config["limits"]
            check_amount(data, self.plan["experiments"], limits["max_epochs"])

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

    @functools.cached_property
    def content(self) -> str:
        """Hash of what the tables of this sweep are made from."""
        keys = ("experiments", "skipped", "convention")
        return canonical_hash({key: self.plan[key] for key in keys})[:16]

    def progress(self) -> str:
        """How far the sweep is, as a line."""
        return f"{self.config['name']}: {Progress.of(self.plan, RESULTS).line()}"


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


def lead_jobs_here() -> None:
    """Let `python -m flops_fit` be these two in every job, whatever environment is activated."""
    prepend("PATH", os.path.dirname(sys.executable))
    if not set(INSTALLED) & set(OWN_FOLDER.parts):
        prepend("PYTHONPATH", str(OWN_FOLDER.parent))


def say(message: str) -> None:
    print(f"flops-fit: {message}", file=sys.stderr)


def prepend(variable: str, folder: str) -> None:
    """Put ``folder`` first in a search path of the environment."""
    os.environ[variable] = os.pathsep.join(filter(None, [folder, os.environ.get(variable)]))


def options(settings: dict) -> str:
    """Settings as options of a command, safe in a shell line.

    What is null or false is left out, true is the option alone, a list the option once for each.
    """
    words = []
    for name, value in settings.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value is not None and value is not False:
            values = value if isinstance(value, list) else [value]
            words += [f"{option}={shlex.quote(str(v))}" for v in values]  # = for values like -x
    return " ".join(words)
