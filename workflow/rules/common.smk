import functools
import inspect
from pathlib import Path
from shlex import quote

from flops_fit import workflow as flops_fit
from flops_fit.config.load import check_keys_once
from flops_fit.errors import FlopsFitError
from flops_fit.plots import FIGURES

CHECKOUT = checkout_folder()
TRAIN_RUN = name_outside("train_run")

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
sweep = readable(flops_fit.Sweep)(config, CHECKOUT)
flops_fit.lead_jobs_here()


wildcard_constraints:
    sweep=sweep.name.replace(".", "[.]"),
    id="[A-Za-z0-9._+-]+",


@functools.cache
@readable
def planned():
    """The sweep with its plan, made once, when the first rule asks for it.

    It is never made at parse time, because `--lint` and `--unlock` must work without a plan.
    """
    if is_main_process() and rewording_reruns():
        logger.warning(flops_fit.NO_PROFILE)
    planned = sweep.make_plan()
    if is_main_process() and not is_dry_run():
        planned.keep()
        planned.set_broken_aside()
        logger.info(planned.progress(), extra={"flops_fit_sweep": planned.kept})
    else:
        planned.name_broken()
    planned.check_amount()
    return planned


@readable
def targets(wildcards):
    """All files of a sweep, including every run, so that a deleted one is made again."""
    if sweep.tunes_rate:
        names = ["learning_rate.json", "learning_rate.txt"]
    elif sweep.confirms:
        names = ["confirmation.json", "confirmation.md"]
    else:
        names = ["fit.json", "answer.txt", "table.md", "report.html"]
        names += [f"plots/{figure}.svg" for figure in FIGURES]
    runs = []
    if sweep.trains:
        names += [f"plan.{kind}" for kind in ("csv", "html", "svg", "txt")]
        names += ["results.json", "results.csv"]
        runs = run_results(wildcards)
    return [f"results/{sweep.name}/{name}" for name in names] + runs


def run_results(wildcards):
    return [
        f"results/runs/{experiment}/result.json" for experiment in planned().experiments
    ]


@readable
def run_table(wildcards):
    return f"results/{sweep.name}/results.csv" if sweep.trains else sweep.runs_file


def records(wildcards):
    return f"results/{sweep.name}/results.json" if sweep.trains else []


def optional_records(wildcards, input):
    return f"--records {quote(input.records)}" if input.records else ""


def optional_tables(wildcards, input):
    plan = f"--plan results/.plan/sweeps/{sweep.name}.json" if sweep.trains else ""
    files = [input.confirmed] if isinstance(input.confirmed, str) else input.confirmed
    confirmed = " ".join(["--confirmed", *map(quote, files)]) if files else ""
    return " ".join(filter(None, [optional_records(wildcards, input), plan, confirmed]))


@readable
def confirmations(wildcards):
    """Outcomes of runs trained at the optimum of this sweep, for its page."""
    if not any(Path("results").glob("*/confirmation.json")):
        return []
    from flops_fit.rounds.confirm import confirmation_files

    return confirmation_files("results", sweep.name)


def prepared_data(wildcards):
    folder = planned().plan.data_dir
    return f"{folder}/manifest.json" if folder else []


def plan_content(wildcards):
    return planned().content


def failed_runs(wildcards):
    return planned().failed


@readable
def plan_tables(wildcards):
    """The files of `snakemake plan --cores 1`, which trains nothing."""
    if not sweep.trains:
        raise FlopsFitError(
            "plan: there is nothing to plan, because the config names existing runs"
        )
    return [
        f"results/{sweep.name}/plan.{kind}" for kind in ("csv", "html", "svg", "txt")
    ]


def plan_options(wildcards):
    return f"{sweep.pricing_options()} {sweep.budget_options()}".strip()


def code_of(step):
    """The fingerprint of the code of a step, computed on demand; training jobs do not need it."""
    return lambda wildcards: flops_fit.code(step)


@readable
def checked(wildcards):
    # From the spec, not the config: editing the config must not change jobs that are waiting.
    return flops_fit.spec_of(wildcards.id).check


@readable
def gpus_per_run():
    """GPUs per run: set-resources (``gpu: 2`` or ``gres: gpu:a100:2``) overrides the config."""
    if gres := set_resource(TRAIN_RUN, "gres"):
        count = gres.rpartition(":")[2]
        return int(count) if count.isdigit() else 1
    gpus = set_resource(TRAIN_RUN, "gpu")
    if gpus is None:
        return sweep.config["resources"]["gpus"]
    if not gpus.isdigit():
        raise FlopsFitError(f"set-resources: gpu={gpus}; allowed: a whole number")
    return int(gpus)


@readable
def longest_first(wildcards):
    """The priority of a run: long runs start first, so that none of them is the last to end."""
    return sweep.price(wildcards.id, gpus_per_run()).seconds


@readable
def minutes(wildcards, attempt):
    return attempt * sweep.request(wildcards.id, gpus_per_run())[0]


@readable
def megabytes(wildcards, attempt):
    return attempt * sweep.request(wildcards.id, gpus_per_run())[1]


def say_how_it_ended():
    """Print the summary that the last step wrote, if all requested files exist."""
    if is_asked_for("plan"):
        print(f"\n{sweep.name}: {sweep.plan_summary()}")
    elif all(Path(file).exists() for file in targets(None)):
        print(f"\n{sweep.name}: {sweep.summary()}")
