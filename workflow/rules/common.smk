import functools
import inspect
import math
import os
from pathlib import Path
from shlex import quote

from flops_fit import step_code
from flops_fit import workflow as flops_fit
from flops_fit.config.load import check_keys_once
from flops_fit.errors import FlopsFitError
from flops_fit.plots import FIGURES
from flops_fit.plugins.data_files import FileHashes
from flops_fit.study import read_study

# Files of a comparison
COMPARED = ["compare.json", "compare.md", "compare.html", "compare.txt"]
COMPARED += [
    f"{name}.{kind}"
    for name in ("compare", "compare_isoflop")
    for kind in ("svg", "png", "csv")
]
CHECKOUT = checkout_folder()
PLAN, TRAIN_RUN = map(name_outside, ("plan", "train_run"))

# Only if no sweep was given: a sweep must never inherit keys of another one.
if not flops_fit.is_sweep(config):
    local_config = Path("config/config.yaml")
    default_config = (
        local_config if local_config.exists() else Path(CHECKOUT, local_config)
    )

    configfile: default_config


def readable(function):
    """Let errors of ``function`` end with one line; Snakemake would add a traceback."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except FlopsFitError as error:
            raise SystemExit(f"flops-fit: error: {error}") from None

    # Snakemake reads the signature at every call; finding it through the wrapper is slow.
    wrapped.__signature__ = inspect.signature(function)
    return wrapped


# Snakemake has read these files and keeps only the last value of a repeated key.
readable(check_keys_once)(config_files())
study = readable(read_study)(config, CHECKOUT, config_files())
sweeps = study.sweeps
use_store()
flops_fit.lead_jobs_here()


wildcard_constraints:
    sweep="|".join(name.replace(".", "[.]") for name in sweeps),
    comparison=study.name.replace(".", "[.]"),
    id="[A-Za-z0-9._+-]+",


@functools.cache
@readable
def planned(name):
    """The sweep ``name`` with its plan, made once, when the first rule asks for it.

    It is never made at parse time, because `--lint` and `--unlock` must work without a plan. Jobs
    read the plan that the main process kept.
    """
    if not is_main_process():
        return sweeps[name].known
    if rewording_reruns():
        logger.warning(flops_fit.NO_PROFILE)
    if settings_rerun_nothing():
        logger.warning(flops_fit.NO_PARAMS)
    planned = make_plan(name)
    if not is_dry_run():
        if planned.set_broken_aside():
            planned = make_plan(name)
        logger.info(planned.progress(), extra={"flops_fit_sweep": planned.kept})
    else:
        planned.name_broken()
    planned.check_amount()
    return planned


def make_plan(name):
    """Plan the sweep ``name``, and keep its plan and send it to the jobs unless in a dry run."""
    planned = sweeps[name].make_plan()
    if not is_dry_run():
        planned.keep()
        send_plan(planned)
    return planned


def all_planned():
    return [planned(name) for name, sweep in sweeps.items() if sweep.trains]


@readable
def targets(wildcards):
    """All files of every sweep, with every run, so that a deleted one is made again."""
    files = [file for sweep in sweeps.values() for file in targets_of(sweep)]
    if study.arms:
        files += [f"results/{study.name}/{name}" for name in COMPARED]
    bring(files, all_planned())
    return files


def targets_of(sweep):
    if sweep.tunes_rate:
        names = ["learning_rate.json", "learning_rate.txt"]
        names += [f"{name}.json" for name in sweep.tuned_beside]
    elif sweep.confirms:
        names = ["confirmation.json", "confirmation.md"]
    else:
        names = ["fit.json", "answer.txt", "table.md", "table.tex", "report.html"]
        names += [f"plots/{figure}.svg" for figure in FIGURES]
    runs = []
    if sweep.trains:
        names += [f"plan.{kind}" for kind in ("csv", "html", "svg", "txt")]
        names += ["results.json", "results.csv"]
        runs = results_of(sweep.name)
    return [f"results/{sweep.name}/{name}" for name in names] + runs


def results_of(name):
    return planned(name).results


def run_results(wildcards):
    return results_of(wildcards.sweep)


@readable
def run_table(wildcards):
    sweep = sweeps[wildcards.sweep]
    if sweep.trains:
        return f"results/{sweep.name}/results.csv"
    # A table that is not in the store is fitted where Snakemake runs.
    return local(sweep.runs_file) if store() else sweep.runs_file


@readable
def table_content(wildcards):
    """The hash of a table of existing runs: an older file in its place is a change, too."""
    sweep = sweeps[wildcards.sweep]
    return None if sweep.trains else FileHashes(os.devnull).of(Path(sweep.runs_file))


def records(wildcards):
    trains = sweeps[wildcards.sweep].trains
    return f"results/{wildcards.sweep}/results.json" if trains else []


def optional_records(wildcards, input):
    return f"--records {quote(input.records)}" if input.records else ""


def optional_tables(wildcards, input):
    name = wildcards.sweep
    plan = f"--plan results/.plan/sweeps/{name}.json" if sweeps[name].trains else ""
    files = [input.confirmed] if isinstance(input.confirmed, str) else input.confirmed
    confirmed = " ".join(["--confirmed", *map(quote, files)]) if files else ""
    return " ".join(filter(None, [optional_records(wildcards, input), plan, confirmed]))


@readable
def confirmations(wildcards):
    """Outcomes of runs trained at the optimum of this sweep, for its page.

    They are those of other sweeps, which no job could look for in a store.
    """
    if store() or not any(Path("results").glob("*/confirmation.json")):
        return []
    from flops_fit.rounds.confirm import confirmation_files

    return confirmation_files("results", wildcards.sweep)


@readable
def prepared_data(wildcards):
    """The prepared data of the first sweep with this check; all that have it read the same data."""
    plans = [planned.plan for planned in all_planned()]
    plans = [plan for plan in plans if Path(plan.check).stem == wildcards.check]
    if not plans:
        raise FlopsFitError(
            f"results/.plan/checked/{wildcards.check}.json: no sweep of this config has this check. "
            "What the runs asked for depend on has changed since they were planned, so that the "
            "config plans others; allowed: the runs in results/NAME/plan.csv, or no target"
        )
    plan = plans[0]
    if store():
        return packed_data(plan)
    return f"{plan.data_dir}/manifest.json" if plan.data_dir else []


@readable
def counted_data(wildcards):
    """The check of the data of a sweep; none if only the plan is asked for and it is not there."""
    check = planned(wildcards.sweep).plan.check
    return [] if is_asked_for(PLAN) and not Path(check).exists() else check


def plan_content(wildcards):
    return planned(wildcards.sweep).content


def failed_runs(wildcards):
    return planned(wildcards.sweep).failed


@readable
def plan_tables(wildcards):
    """The files of `snakemake plan --cores 1`, which trains nothing."""
    trained = [sweep for sweep in sweeps.values() if sweep.trains]
    if not trained:
        raise FlopsFitError(
            "plan: there is nothing to plan, because the config names existing runs"
        )
    kinds = ("csv", "html", "svg", "txt")
    return [f"results/{sweep.name}/plan.{kind}" for sweep in trained for kind in kinds]


def plan_options(wildcards):
    sweep = sweeps[wildcards.sweep]
    return f"{sweep.pricing_options()} {sweep.budget_options()}".strip()


def code_of(step):
    """The fingerprint of the code of a step, computed on demand; training jobs do not need it."""
    return lambda wildcards: step_code.code(step)


@readable
def checked(wildcards):
    # From the spec, not the config: editing the config must not change jobs that are waiting.
    spec = flops_fit.spec_of(wildcards.id)
    return [spec.check, *packed_data(spec)] if store() else spec.check


def sweep_of(experiment):
    if len(sweeps) > 1 and is_main_process():
        all_planned()  # a target of one arm has planned no other
    return study.sweep_of(experiment)


@readable
def resources_of(experiment):
    return sweep_of(experiment).config["resources"]


def processes(wildcards):
    return resources_of(wildcards.id)["processes"]


def threads_per_process(wildcards):
    return resources_of(wildcards.id)["threads"]


def threads_per_run(wildcards):
    return processes(wildcards) * threads_per_process(wildcards)


@readable
def gpus_per_run(wildcards):
    """GPUs per run: set-resources (``gpu: 2`` or ``gres: gpu:a100:2``) overrides the config."""
    if gres := set_resource(TRAIN_RUN, "gres"):
        count = gres.rpartition(":")[2]
        return int(count) if count.isdigit() else 1
    gpus = set_resource(TRAIN_RUN, "gpu")
    if gpus is None:
        return resources_of(wildcards.id)["gpus"]
    if not gpus.isdigit():
        raise FlopsFitError(f"set-resources: gpu={gpus}; allowed: a whole number")
    return int(gpus)


@readable
def before_on_trunk(wildcards):
    """The result of the run that leaves a state for this one, on the trunk that both share."""
    sweep = sweep_of(wildcards.id)
    if not sweep.has_trunks:
        return []
    if is_main_process():
        planned(sweep.name)
    before = sweep.before(wildcards.id)
    return f"results/runs/{before}/result.json" if before else []


def gpu_resource(wildcards):
    """SLURM accepts only one of gres and gpu."""
    return 0 if set_resource(TRAIN_RUN, "gres") else gpus_per_run(wildcards)


def request(wildcards):
    sweep = sweep_of(wildcards.id)
    return sweep.request(wildcards.id, gpus_per_run(wildcards))


@readable
def longest_first(wildcards):
    """The priority of a run: long runs start first, so that none of them is the last to end.

    Runs that wait for it on a trunk are part of its length.
    """
    sweep = sweep_of(wildcards.id)
    return sweep.seconds_with_later(wildcards.id, gpus_per_run(wildcards))


@readable
def minutes(wildcards, attempt):
    ceiling = resources_of(wildcards.id)["max_minutes"]
    return min(attempt * request(wildcards)[0], ceiling or math.inf)


def requeued_at_limit(wildcards, attempt):
    """Whether a job that reaches its time limit continues in the queue: it could ask for no more."""
    return int(minutes(wildcards, attempt) == resources_of(wildcards.id)["max_minutes"])


@readable
def megabytes(wildcards, attempt):
    return attempt * request(wildcards)[1]


def arms_records(wildcards):
    """The records of every arm, or of none where one is a table of runs."""
    if not all(sweep.trains for sweep in sweeps.values()):
        return []
    return [f"results/{sweep}/results.json" for sweep in study.arms.values()]


def arms_options(wildcards, input):
    options = study.compare_options()
    if input.records:
        reference, *others = map(quote, input.records)
        options += (
            f" --reference-records {reference} --candidate-records {' '.join(others)}"
        )
    return options


def say_how_it_ended():
    """Print the summaries that the last step of each sweep wrote, if all requested files exist."""
    if is_asked_for(PLAN):
        for sweep in sweeps.values():
            if sweep.trains:
                print(f"\n{sweep.name}: {sweep.plan_summary()}")
    elif all(Path(file).exists() for file in targets(None)):
        for sweep in sweeps.values():
            print(f"\n{sweep.name}: {sweep.summary()}")
        if study.arms:
            print(f"\n{study.name}: {study.summary()}")


def rules_beside_rate(wildcards, output):
    """Options of `flops-fit rate`: where it writes the other rules that the sweep fits."""
    files = [(name.replace("_", "-"), output[name]) for name in study.tuned_beside]
    return " ".join(f"--{name}-out {quote(file)}" for name, file in files)
