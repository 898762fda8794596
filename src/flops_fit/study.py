"""What the config of a workflow asks for: one sweep, or several and their comparison."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from flops_fit.config.arms import arm_configs
from flops_fit.config.check import COMPARISON, kind_of_sweep
from flops_fit.config.complete import complete_config
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import sweep_folder
from flops_fit.jobs.served import start_server
from flops_fit.plan.cache import search_paths
from flops_fit.store.elsewhere import link_copies, settle_specs
from flops_fit.workflow import RESULTS, Sweep


class Study:
    """What a config asks for, as the rules see it: one sweep, or the sweeps of a comparison.

    ``config``: of either kind; ``checkout``: the folder of the workflow, searched for modules, data and
    the configs of arms. ``sweeps`` by their names; ``arms``: name of an arm -> name of its sweep, the
    reference first, and empty where nothing is compared.
    """

    def __init__(self, config: dict, checkout: str):
        self.config = complete_config(config)
        self.name = self.config["name"]
        self.arms: dict[str, str] = {}
        if kind_of_sweep(self.config) is not COMPARISON:
            self.sweeps = {self.name: Sweep(config, checkout)}
            return
        arms = arm_configs(self.config, search_paths([checkout]))
        self.arms = {name: arm["name"] for name, arm in arms.items()}
        self.sweeps = {arm["name"]: Sweep(arm, checkout) for arm in arms.values()}

    @property
    def tunes_rate(self) -> bool:
        """Whether the only sweep looks for the best learning rate."""
        return any(sweep.tunes_rate for sweep in self.sweeps.values())

    @property
    def tuned_beside(self) -> list[str]:
        """The names of the rules that a rate sweep fits beside that for the learning rate.

        Arms of a comparison tune no rate, so at most one sweep has any.
        """
        return [name for sweep in self.sweeps.values() for name in sweep.tuned_beside]

    @property
    def confirms(self) -> bool:
        """Whether the only sweep is a single run that tests a prediction."""
        return any(sweep.confirms for sweep in self.sweeps.values())

    def start_server(self) -> None:
        """Start the server from which runs are forked, where all sweeps that train may use it."""
        training = [sweep for sweep in self.sweeps.values() if sweep.trains]
        if training and all(sweep.forks for sweep in training):
            start_server()

    def use_store(self, copies: str, moved: bool) -> None:
        """Find and leave all files of jobs in ``copies``, the local copies of a store's results.

        ``moved``: whether this is a job on a machine to which the plans were sent. Raises
        `FlopsFitError` where the config or the folder of results does not allow it.
        """
        if any(sweep.config["accept_failures"] for sweep in self.sweeps.values()):
            raise FlopsFitError(
                "accept_failures: true; allowed without a shared file system: false, because the "
                "reason of a failure stays on the machine of its job"
            )
        link_copies(RESULTS, copies, {self.name, *self.sweeps})
        if moved:
            settle_specs(RESULTS)

    def sweep_of(self, experiment: str) -> Sweep:
        """The first sweep that has ``experiment``, an id: its resources are those of the run."""
        sweeps = list(self.sweeps.values())
        if len(sweeps) == 1:
            return sweeps[0]
        return next((sweep for sweep in sweeps if sweep.has(experiment)), sweeps[0])

    def compared(self, name: str, suffix: str) -> str | list[str]:
        """The files ``name`` of the arms' sweeps: the reference's, or those of all others.

        ``suffix``: reference or candidates.
        """
        files = [str(sweep_folder(RESULTS, sweep) / name) for sweep in self.arms.values()]
        return files[0] if suffix == "reference" else files[1:]

    def compare_options(self) -> str:
        """Names of the arms and the budgets as options of ``flops-fit compare``."""
        names = " ".join(shlex.quote(name) for name in self.arms)
        budgets = " ".join(f"{budget:g}" for budget in self.config["answer"]["budgets"])
        return f"--names {names}" + (f" --flops {budgets}" if budgets else "")

    def summary(self) -> str:
        """The answer of the comparison and the path of its page, printed at the end."""
        folder = sweep_folder(RESULTS, self.name)
        return f"{(folder / 'compare.txt').read_text().strip()}\n\npage: {folder}/compare.html"


def read_study(config: dict, checkout: str, files: Sequence[str | Path]) -> Study:
    """The study of ``config``, which Snakemake has read from ``files``; ``checkout`` as in `Study`.

    Raises `FlopsFitError` for a bad config, which says that several files were merged into it.
    """
    try:
        return Study(config, checkout)
    except FlopsFitError as error:
        if len(files) < 2:
            raise
        names = " and ".join(os.path.relpath(file) for file in files)
        raise FlopsFitError(
            f"{error} (Snakemake merges {names}; write your sweep into one of them, without the other)"
        ) from None
