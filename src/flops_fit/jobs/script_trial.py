"""The trial of a user's own script: two steps before any job, in a temporary folder."""

import os
import subprocess
import tempfile
from pathlib import Path

from flops_fit.constants import Status
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.spec import Spec
from flops_fit.jobs.environment import cleaned
from flops_fit.jobs.gpu_locks import USE_CPU
from flops_fit.jobs.script import (
    RESULT_FILE,
    SPEC_FILE,
    command_line,
    script_spec_of,
    script_variables,
)
from flops_fit.jobs.script_files import FOLDER, TRY, counts_of, outcome_of
from flops_fit.run import FINAL

UNTOLD = (
    "the program does not report which files it read, so a change of one is only noticed where "
    "trainer.sources names it"
)
LAST_LINES = 20  # of what the script prints, for an error


def try_script(spec: Spec) -> list[str]:
    """Run the script of ``spec`` for two steps, on the CPU; returns sentences on what is not checked.

    Raises `FlopsFitError` that says why it fails, with the end of what it printed.
    """
    launching, resources = spec.launching or {}, spec.resources
    if not launching["trial"]:
        return ["the script was not run for two steps, as trainer.trial is false"]
    with tempfile.TemporaryDirectory(prefix="flops-fit-trial-") as temporary:
        folder = Path(temporary)
        given = script_spec_of(
            spec, str(folder / FOLDER), resources.processes, resources.threads, gpus=0
        )
        trial = given.trial(given.folder)
        Path(trial.folder).mkdir()
        trial.write(folder / SPEC_FILE)
        environment = {
            **cleaned(os.environ),
            "OMP_NUM_THREADS": str(resources.threads),
            USE_CPU: "true",
            TRY: "1",
            **script_variables(folder),
        }
        done = subprocess.run(
            command_line(spec, trial, folder),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        outcome = outcome_of(
            folder / RESULT_FILE, trial, counts_of(spec.count), done.returncode, trial=True
        )
    if outcome.status not in FINAL:
        end = "\n".join(done.stdout.splitlines()[-LAST_LINES:])
        reason = outcome.reason.replace(temporary + os.sep, "")
        raise FlopsFitError(
            f"the script failed its trial of {trial.steps} steps: {reason}\n{end}\n"
            f"(this was {spec.experiment_id}; trainer.trial: false skips the trial)"
        )
    notes = [] if outcome.status == Status.COMPLETED else [f"the trial diverged: {outcome.reason}"]
    return [*outcome.notes, *notes, *([] if outcome.used else [UNTOLD])]
