"""One start of a run: which experiment, on what, and where its files lie."""

from dataclasses import dataclass
from pathlib import Path

from flops_fit.experiment.places import run_folder
from flops_fit.experiment.spec import Spec


@dataclass(frozen=True)
class Start:
    """One start of a run.

    ``spec`` is the experiment, in the file ``spec_path``; its record is copied to ``result``, below
    ``results``. ``processes`` processes with ``threads`` CPU threads each train on ``gpus`` GPUs.
    ``after`` is the id of the run that was trained before it on its trunk (empty: none).
    """

    spec: Spec
    spec_path: str
    result: str
    results: str
    processes: int
    threads: int
    gpus: int
    after: str = ""

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return run_folder(self.results, self.spec.experiment_id)

    @property
    def one_on_cpu(self) -> bool:
        """Whether a single process trains on the CPU."""
        return self.processes == 1 and self.gpus == 0

    @property
    def may_be_forked(self) -> bool:
        """Whether it may start as a fork: one thread on the CPU, without processes beside it."""
        asked = self.spec.resources
        beside = asked.loader_workers or asked.compile or asked.log_with
        return asked.server and self.one_on_cpu and self.threads == 1 and not beside
