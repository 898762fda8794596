"""The bridge between Snakemake and the library: the plan, made on demand, and what rules ask of it.

A dry run lists exactly the experiments that will run, without importing torch: the plan is a file whose
name is a hash of all that determines it. Only where there is none, a subprocess makes the plan.
"""

import functools
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from flops_fit.config.check import KINDS
from flops_fit.config.complete import complete_config
from flops_fit.config.factors import tunes_rate
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.options import Resources
from flops_fit.experiment.places import (
    late_file,
    run_folder,
    spec_file,
    sweep_config_file,
    sweep_folder,
    sweep_plan_file,
)
from flops_fit.experiment.plan import Plan
from flops_fit.experiment.recipe import read_recipe
from flops_fit.experiment.spec import Spec, read_spec
from flops_fit.experiment.used import keep_late
from flops_fit.files import canonical_hash, write_object
from flops_fit.jobs.gpu_locks import cpu_by_choice
from flops_fit.jobs.launch import check_process_count
from flops_fit.jobs.progress import Progress
from flops_fit.plan.amounts import check_amount, read_checked
from flops_fit.plan.cache import plan_config, search_paths
from flops_fit.plan.price import (
    Price,
    Rate,
    Work,
    job_megabytes,
    job_minutes,
    price,
    rate_for,
    work_of_spec,
)
from flops_fit.plan.trunks import has_trunks, run_before, with_later
from flops_fit.plan.variants import AXES
from flops_fit.plugins.data_files import find_path
from flops_fit.plugins.origin import INSTALLED, OWN_FOLDER
from flops_fit.store.collect import edited_tables
from flops_fit.store.plan_file import keep_plan, read_plan, read_plan_use
from flops_fit.store.records import RECORD, RESULT, read_failure, read_record, set_aside
from flops_fit.store.runs import remove_spent_states
from flops_fit.store.verified import Verified, state_of

RESULTS = "results"
NO_PROFILE = (
    "flops-fit: the rerun triggers of profiles/default are not in use: any edit of a rule's text "
    "starts every run again (each is then restored from its record). Start Snakemake in the folder "
    "that holds profiles/default, or give --rerun-triggers mtime params input"
)
NO_PARAMS = (
    "flops-fit: warning: under these rerun triggers, no changed setting is noticed, and old files count "
    "as new; give --rerun-triggers mtime params input"
)
EDITED = "edited after it was collected (to fit your own table, name it in the config under runs)"


def is_sweep(config: Mapping[str, object]) -> bool:
    """Whether ``config``, as Snakemake has it before any default, describes a sweep or a comparison."""
    return any(key in config for key in (*(kind.key for kind in KINDS), "counts"))


class Sweep:
    """The sweep of ``config`` as the rules see it; nothing is planned before a rule asks.

    ``checkout`` is the folder of the workflow, searched for modules and data.
    """

    def __init__(self, config: dict, checkout: str):
        self.paths = search_paths([checkout])
        self.config = complete_config(config, self.paths)
        self.name = self.config["name"]
        self._planned: PlannedSweep | None = None

    @property
    def trains(self) -> bool:
        """Whether the sweep trains runs; a table of existing runs is only fitted."""
        return self.config["runs"] is None

    @property
    def tunes_rate(self) -> bool:
        """Whether the sweep looks for the best learning rate instead of a scaling law."""
        return tunes_rate(self.config)

    @property
    def tuned_beside(self) -> list[str]:
        """The names of the rules that the sweep fits together with that for the learning rate."""
        varied = (name for key, name in AXES.items() if len(self.config.get(key, [1])) > 1)
        return [name for name in varied if name != "learning_rate"]

    @property
    def confirms(self) -> bool:
        """Whether the sweep is a single run that tests a prediction."""
        return self.config["confirm"] is not None

    @property
    def forks(self) -> bool:
        """Whether the runs of the sweep may be forked from a server, as those of one CPU thread may."""
        asked = Resources.from_dict(self.config["resources"])
        return asked.server and asked.processes == asked.threads == 1 and not asked.gpus

    def predicted(self) -> str:
        """The prediction for that single run, as JSON."""
        return json.dumps(self.config["confirm"])

    @property
    def runs_file(self) -> str:
        """The table of existing runs that the config names; raises `FlopsFitError` if it is missing."""
        path = find_path(self.config["runs"], self.paths)
        if path is None:
            raise FlopsFitError(f"runs: {self.config['runs']!r} does not exist")
        return str(path)

    def make_plan(self) -> "PlannedSweep":
        """Plan the sweep, or read its plan if nothing that determines it has changed."""
        self._planned = PlannedSweep(self.config, plan_config(self.config, RESULTS, self.paths))
        return self._planned

    def has(self, experiment: str) -> bool:
        """Whether ``experiment``, an id, is one of this sweep, by the plan that was kept last.

        So a job that waits is that of its sweep, even if the config changes.
        """
        if not self.trains:
            return False
        if self._planned is not None:
            return experiment in self._planned.ids
        kept = sweep_plan_file(RESULTS, self.name)
        return kept.exists() and experiment in read_plan_use(kept).experiments

    @property
    def has_trunks(self) -> bool:
        """Whether runs that differ only in D share their first steps."""
        return has_trunks(self.config)

    @functools.cached_property
    def known(self) -> "PlannedSweep":
        """The sweep with its plan: that of this process, or in a job the one that was kept."""
        kept = sweep_plan_file(RESULTS, self.name)
        return self._planned or PlannedSweep(self.config, read_plan(kept))

    def before(self, experiment: str) -> str:
        """The id of the run that leaves a state for ``experiment``, an id; empty where none does."""
        return run_before(self.known.plan, self.known.failed, RESULTS, experiment)

    def seconds_with_later(self, experiment: str, gpus: int) -> float:
        """Seconds of ``experiment``, an id, and the runs that wait for it, on ``gpus`` GPUs each."""
        runs = [experiment]
        if self.has_trunks:
            runs = with_later(self.known.plan, self.known.failed, RESULTS, experiment)
        return sum(self.price(run, gpus).seconds for run in runs)

    def tidy(self) -> None:
        """Remove states of trunks that no planned run needs; the last of each trunk stays."""
        if self.has_trunks:
            remove_spent_states(RESULTS)

    def _work(self, experiment: str) -> Work:
        start = self.known.plan.start_of(experiment) if self.has_trunks else 0
        return work_of_spec(spec_of(experiment), start)

    def request(self, experiment: str, gpus: int) -> tuple[int, int]:
        """Minutes and megabytes of a first attempt at ``experiment`` (an id) on ``gpus`` GPUs."""
        resources = self._resources(gpus)
        if not cpu_by_choice(os.environ):
            check_process_count(resources.processes, gpus, resources.sharing)
        cost = self.price(experiment, gpus)
        work = self._work(experiment)
        return job_minutes(cost), job_megabytes(work, cost, resources)

    @functools.cache  # noqa: B019 - Snakemake asks several times for every run
    def price(self, experiment: str, gpus: int) -> Price:
        """The expected time and cost of one ``experiment`` (an id) on ``gpus`` GPUs."""
        return price(self._work(experiment), self.rate(gpus), self._resources(gpus))

    def _resources(self, gpus: int) -> Resources:
        return replace(Resources.from_dict(self.config["resources"]), gpus=gpus)

    @functools.cache  # noqa: B019 - one sweep lives as long as the process
    def rate(self, gpus: int) -> Rate:
        """How fast one device trains this sweep: a GPU, or a CPU thread where ``gpus`` is 0."""
        pricing = self.config["pricing"]
        pricing = pricing if gpus else {**pricing, "device": None}
        return rate_for(pricing, gpus, self.config.get("precision", "no"), RESULTS)

    def summary(self) -> str:
        """The answer and the paths of its report and figures, printed at the end."""
        figures = sweep_folder(RESULTS, self.name) / "plots"
        if self.tunes_rate:
            return f"{self._read('learning_rate.txt')}\nfigure: {figures}/learning_rate.svg"
        if self.confirms:
            return self._read("confirmation.md")
        page = sweep_folder(RESULTS, self.name) / "report.html"
        return f"{self._read('answer.txt')}\n\nreport: {page}\nfigures: {figures}/"

    def plan_summary(self) -> str:
        """The cost of the plan and its warnings, printed where only the plan was asked for."""
        return f"{self._read('plan.txt')}\npage: {sweep_folder(RESULTS, self.name)}/plan.html"

    def _read(self, name: str) -> str:
        return (sweep_folder(RESULTS, self.name) / name).read_text().strip()

    def fit_options(self) -> str:
        """The fit settings as options of ``flops-fit fit``, with the plan for sizes beyond the grid.

        Loss curves are passed on only for the envelope: while the learning rate is still high they
        lie above the loss that a finished run of that length would reach.
        """
        settings = options(self.config["fit"])
        if self.trains:
            settings += f" --sizes {sweep_plan_file(RESULTS, self.name)}"
        if self.trains and self.config["fit"]["method"] == "envelope":
            settings += f" --curves {sweep_folder(RESULTS, self.name)}/results.json"
        return settings

    def plot_options(self) -> str:
        """The plot settings as options of ``flops-fit plot``."""
        return options(self.config["plot"])

    def pricing_options(self) -> str:
        """The pricing of the config as options of ``flops-fit plan``."""
        return options(self.config["pricing"])

    def budget_options(self) -> str:
        """The budgets that the report answers for, as an option of ``flops-fit report``."""
        budgets = self.config["answer"]["budgets"]
        return " ".join(["--budgets", *(f"{budget:g}" for budget in budgets)]) if budgets else ""

    def answer_options(self) -> str:
        """The budgets and the questions beside them, as options of ``flops-fit report``."""
        asked = {k: v for k, v in self.config["answer"].items() if k not in ("budgets", "devices")}
        if asked["hours"] is not None or asked["money"] is not None:
            asked["devices"] = self.config["answer"]["devices"]
            for key in ("device", "flops_per_second", "per_hour"):
                asked[key] = self.config["pricing"][key]
        return f"{self.budget_options()} {options(asked)}".strip()


@dataclass(frozen=True)
class PlannedSweep:
    """A sweep (``config``) with its ``plan``; only `keep` and `set_broken_aside` write files."""

    config: dict
    plan: Plan

    @property
    def kept(self) -> tuple[str, str]:
        """The plan file that `keep` writes under the sweep's name, and the folder of results."""
        return str(sweep_plan_file(RESULTS, self.config["name"])), RESULTS

    def keep(self) -> None:
        """Write the plan to the places where jobs read it, and the config beside it."""
        keep_plan(self.plan, self.config["name"], RESULTS)
        write_object(sweep_config_file(RESULTS, self.config["name"]), self.config)

    def set_broken_aside(self) -> bool:
        """Move broken files aside; whether records told of files that only their jobs read."""
        for path in edited_tables(RESULTS, self.config["name"]):
            say(f"{path}: {EDITED}; moved to {path.name}.edited and made again")
            set_aside(path, "edited")
        verified, late = Verified(RESULTS), state_of(late_file(RESULTS), "")
        for path, error in self._broken(verified, watch=True):
            say(f"{error}; moved to {path.name}.corrupt")
            set_aside(path)
            if path.name == RECORD:  # without its record a result is no longer backed
                path.with_name(RESULT).unlink(missing_ok=True)
        verified.save()
        return state_of(late_file(RESULTS), "") != late

    def name_broken(self) -> None:
        """Name the files that `set_broken_aside` would move."""
        for path in edited_tables(RESULTS, self.config["name"]):
            say(f"{path}: {EDITED}; a real run will move it aside and make it again")
        for _, error in self._broken(Verified(RESULTS)):
            say(f"{error}; a real run will move it aside")

    def _broken(
        self, verified: Verified, watch: bool = False
    ) -> Iterator[tuple[Path, FlopsFitError]]:
        """Yield every result and record that is not valid, with the error, and note the valid ones.

        A file that was verified before is not read again, and a copy of a valid record is valid. With
        ``watch``, files that a plug-in read only during a job count as its inputs from now on.
        """
        for experiment in self.plan.experiments:
            name, digest = experiment.experiment_id, experiment.hash
            folder = run_folder(RESULTS, name)
            record, result = folder / RECORD, folder / RESULT
            for path, twin in ((record, result), (result, record)):
                state = state_of(path, digest)
                if state is None or verified.holds(path, state):
                    continue
                if not verified.is_copy(path, twin, digest):
                    try:
                        sound = read_record(path, name, digest)
                    except FlopsFitError as error:
                        yield path, error
                        continue
                    if watch and sound.get("late"):
                        references = read_recipe(sound["identity"]).references
                        keep_late(RESULTS, references, sound["late"])
                verified.note(path, state)

    def check_amount(self) -> None:
        """Refuse a sweep with too little data, once `check_inputs` has counted them."""
        if Path(self.plan.check).exists():
            most = self.config["limits"]["max_epochs"]
            check_amount(read_checked(self.plan.check), self.plan.experiments, most)

    @functools.cached_property
    def failed(self) -> list[str]:
        """Ids of failed experiments to leave out; empty without ``accept_failures``."""
        if not self.config["accept_failures"]:
            return []
        folders = [(e, run_folder(RESULTS, e.experiment_id)) for e in self.plan.experiments]
        return [
            experiment.experiment_id
            for experiment, folder in folders
            if not (folder / RESULT).exists() and read_failure(folder, experiment.hash)
        ]

    @functools.cached_property
    def ids(self) -> dict[str, None]:
        """Ids of all experiments, in the order of the plan."""
        return dict.fromkeys(e.experiment_id for e in self.plan.experiments)

    @functools.cached_property
    def experiments(self) -> list[str]:
        """Ids of the experiments to train."""
        failed = set(self.failed)
        return [experiment for experiment in self.ids if experiment not in failed]

    @property
    def results(self) -> list[str]:
        """The results of the experiments to train."""
        return [str(run_folder(RESULTS, experiment) / RESULT) for experiment in self.experiments]

    @functools.cached_property
    def content(self) -> str:
        """Hash of the parts of the plan that the tables of this sweep are made from."""
        plan = self.plan.to_dict()
        keys = ("experiments", "skipped", "convention")
        return canonical_hash({key: plan[key] for key in keys})[:16]

    def progress(self) -> str:
        """The progress of the sweep in one line."""
        return f"{self.config['name']}: {Progress.of(self.plan, RESULTS).line()}"


@functools.cache
def spec_of(experiment: str) -> Spec:
    """The spec of ``experiment`` (an id), which stays as planned even if the config changes."""
    return read_spec(spec_file(RESULTS, experiment))


def lead_jobs_here() -> None:
    """Make `python -m flops_fit` in every job use this Python and these sources."""
    prepend("PATH", os.path.dirname(sys.executable))
    if not set(INSTALLED) & set(OWN_FOLDER.parts):
        prepend("PYTHONPATH", str(OWN_FOLDER.parent))


def say(message: str) -> None:
    """Print ``message`` on standard error."""
    print(f"flops-fit: {message}", file=sys.stderr)


def prepend(variable: str, folder: str) -> None:
    """Put ``folder`` first in the search path that the environment ``variable`` holds."""
    os.environ[variable] = os.pathsep.join(filter(None, [folder, os.environ.get(variable)]))


def options(settings: dict) -> str:
    """``settings`` (name -> value) as options of a command, quoted for a shell.

    None and False are left out, True gives the option alone, and a list repeats the option.
    """
    parts = []
    for name, value in settings.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            parts.append(option)
        elif value is not None and value is not False:
            values = value if isinstance(value, list) else [value]
            parts += [f"{option}={shlex.quote(str(v))}" for v in values]  # = for values like -x
    return " ".join(parts)
