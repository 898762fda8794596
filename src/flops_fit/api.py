"""The same path for notebooks and scripts: `find_optimal` plans, trains, fits and answers."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from flops_fit.constants import ANSWER_FACTORS, Status
from flops_fit.data import as_data
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.plan import Plan
from flops_fit.files import canonical_hash, write_json
from flops_fit.jobs.function import train_by_function
from flops_fit.optimizer import adamw
from flops_fit.plan.local import LocalSweep
from flops_fit.plan.script_costs import stated_costs
from flops_fit.sweep import SIX_ND, SweepPlan
from flops_fit.trainer import TrainingRunner
from flops_fit.training.arguments import (
    check_arguments,
    checked_options,
    numbers,
    only_size,
    seeds_of,
)
from flops_fit.training.local import Call, is_main_process, say
from flops_fit.training.local_identity import LocalIdentity, check_resume

if TYPE_CHECKING:
    import pandas as pd

    from flops_fit.comparison.result import Comparison
    from flops_fit.fit.answer import Answer
    from flops_fit.fit.result import Fit
    from flops_fit.fit.runs import RunTable
    from flops_fit.run import Run

COMPUTE_BUDGETS = (1e11, 3e11, 1e12, 3e12)  # minutes on a laptop; choose yours


def find_optimal(
    model_cls: Callable[..., nn.Module] | None = None,
    model_size_param: str | None = None,
    model_kwargs: dict | None = None,
    dataset: Any = None,
    loss_fn: Callable | None = None,
    compute_budgets: Sequence[float] | float | None = None,
    train: bool = True,
    output_dir: str | Path = "results/local",
    resume: bool | str = True,
    sizes: Sequence | None = None,
    *,
    seeds: Sequence[int] | int = (0,),
    convention: str = SIX_ND,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    fit_options: dict | None = None,
    train_fn: Callable[["Run"], Any] | None = None,
    counts: Callable[[Any], Mapping] | Mapping[Any, Mapping] | None = None,
    tokens_per_item: int = 1,
    retries: int = 0,
    **train_options: Any,
) -> "Result | SweepPlan":
    """Find the compute-optimal N and D for your model, data and loss, or for your training function.

    With ``train_fn`` the last four arguments count, and model, data and loss are the function's
    business: see "From Python" in docs/own_script.md.

    Args:
        model_cls: called as ``model_cls(**{model_size_param: size}, **model_kwargs)``.
        model_size_param: the name of the argument that sets the model's size; by default the only
            one that model_cls requires beside model_kwargs.
        model_kwargs: its other arguments, the same for every size.
        dataset: a torch dataset or DataLoader, or ``(train, heldout)`` of them; a single one is
            split by a fixed hash of the index.
        loss_fn: ``loss_fn(outputs, targets)``, the mean over target elements; a class is called first.
        compute_budgets: training FLOPs, one IsoFLOP curve each (default: 1e11, 3e11, 1e12, 3e12).
        train: whether to train; False makes the plan only.
        output_dir: where ``results.json``, ``fit.json`` and figures go.
        resume: do not repeat experiments that ``output_dir`` holds from an earlier call with the
            same settings and the same content of model, data, loss and optimizer (see
            `TrainingRunner.run_sweep_from_plan`). ``"trust"`` also takes what cannot be compared,
            such as a lock or an open file, as unchanged.
        sizes: values of the size parameter for every budget; by default integers, even in ln N,
            for 2 to 200 tokens per parameter.
        seeds: every size and budget is trained once with each; a number means as many, from 0 on.
        convention: what a budget means: ``6nd`` (6 N D with the model's own N) or ``counted``.
        batch_size: global batch in items.
        learning_rate: peak rate of every experiment.
        fit_options: arguments of `flops_fit.fit.fit_runs`.
        train_fn: trains one experiment as ``train_fn(run)``, with the `flops_fit.run.Run` that
            `current_experiment` gives to a script, and ends in ``run.finish(loss=..., tokens=...)``.
            Only experiments whose function has another content are trained again.
        counts: what a size holds and costs, for ``train_fn``: a function of the size, or a mapping by
            size, that gives ``{"params": N, "flops_per_token": ...}``. Without it N is that of
            ``model_cls``.
        tokens_per_item: tokens that an item of the batch of ``train_fn`` brings.
        retries: how often a run of ``train_fn`` that fails is tried again.
        train_options: further fields of `flops_fit.experiment.options.TrainOptions`, and ``optimizer``.

    Returns:
        A `Result`, or the `SweepPlan` with ``train=False`` or without a dataset or loss. Cells
        of fewer than 8 steps are skipped and listed in the plan.

    Raises:
        FlopsFitError: for input that breaks a contract, before anything trains.
    """
    check_resume(resume)
    if model_cls is not None and model_size_param is None:
        model_size_param = only_size(model_cls, model_kwargs or {})
    loss_fn = loss_fn() if isinstance(loss_fn, type) else loss_fn
    check_arguments(model_cls, dataset, loss_fn, train_fn, counts, train_options)
    train_options = checked_options(train_options)
    data = None if dataset is None else as_data(dataset)
    if sizes is None and isinstance(counts, Mapping):
        sizes = sorted(counts)
    budgets = COMPUTE_BUDGETS if compute_budgets is None else compute_budgets
    sweep = LocalSweep(
        model_cls,
        model_size_param,
        model_kwargs or {},
        data,
        loss_fn,
        convention,
        sorted(numbers("compute_budgets", budgets)),
        None if sizes is None else numbers("sizes", sizes),
        seeds_of(seeds),
        numbers("batch_size", batch_size)[0],
        numbers("learning_rate", learning_rate)[0],
        None if counts is None else stated_costs(counts, "counts", tokens_per_item),
        tokens_per_item,
    )
    sweep.check()
    if not train:
        return sweep.plan()
    if train_fn is not None:
        plan = sweep.plan()
        records = train_by_function(plan, train_fn, output_dir, tokens_per_item, resume, retries)
        return Result.of(plan, records, convention, Path(output_dir), fit_options or {})
    if data is None or loss_fn is None:
        return sweep.plan()
    assert model_cls is not None
    assert model_size_param is not None
    optimizer = train_options.get("optimizer", adamw)
    call = Call(model_cls, model_size_param, model_kwargs, data, loss_fn, optimizer)
    identity = LocalIdentity.of(call, Path(output_dir))  # before planning runs the model
    plan = sweep.plan()
    for warning in plan.warnings:
        say(f"warning: {warning}")
    options = {"batch_size": batch_size, "learning_rate": learning_rate, **train_options}
    runner = TrainingRunner(output_dir)
    records = runner.run_sweep_from_plan(
        plan, model_cls, model_size_param, model_kwargs, data, loss_fn, resume, identity, **options
    )
    return Result.of(plan, records, convention, Path(output_dir), fit_options or {})


class Result:
    """A finished sweep, as `find_optimal` returns it.

    ``plan``: the `SweepPlan`. ``records``: a dict for each run, as in results.json.
    ``convention``: what its budgets mean, 6nd or counted. ``output_dir``: where everything lies.
    ``law``: the `flops_fit.fit.Fit`, as fit.json keeps it; None where nothing can be fitted, and
    ``reason`` then says why. `predict`, `chinchilla_table`, `plot` and `report` then raise
    `FlopsFitError` with that reason.
    """

    def __init__(
        self,
        plan: SweepPlan,
        records: list[dict],
        convention: str,
        output_dir: Path,
        law: "Fit | None",
        reason: str,
    ):
        self.plan, self.records, self.convention = plan, records, convention
        self.output_dir, self.law, self.reason = output_dir, law, reason

    @classmethod
    def of(
        cls,
        plan: SweepPlan,
        records: list[dict],
        convention: str,
        output_dir: Path,
        fit_options: dict[str, Any],
    ) -> "Result":
        """Fit the ``records`` of ``plan`` with ``fit_options``, as `flops_fit.fit.fit_runs` takes them.

        ``convention``: what budgets mean. The main process also writes ``fit.json`` to ``output_dir``.
        """
        from flops_fit.fit.core import fit_runs
        from flops_fit.fit.sizes import Size

        sizes = [Size(**size.in_table(convention, "params")) for size in plan.beyond]
        try:
            law = fit_runs(run_frame(records, convention), **{"sizes": sizes, **fit_options})
            reason = ""
        except FlopsFitError as error:
            law, reason = None, str(error)
        if law is not None and is_main_process():
            write_json(output_dir / "fit.json", law.to_dict())
        return cls(plan, records, convention, output_dir, law, reason)

    def fitted(self) -> "Fit":
        """The law; raises `FlopsFitError` with the reason where there is none."""
        if self.law is None:
            raise FlopsFitError(f"no law could be fitted: {self.reason}")
        return self.law

    def predict(
        self, compute_budget: float, params: float | None = None, tokens: float | None = None
    ) -> "Answer":
        """The answer at ``compute_budget`` FLOPs, as `flops_fit.fit.predict` gives it.

        With ``params`` or ``tokens``, the answer also says what that N or D gives at the budget.
        """
        from flops_fit.fit.prediction import predict

        return predict(self.fitted(), compute_budget, params, tokens)

    def chinchilla_table(self, compute_budgets: Sequence[float] | None = None) -> "pd.DataFrame":
        """Optimal N, D and loss by budget as a `pandas.DataFrame`, with the verdict on each.

        ``compute_budgets``: FLOPs, by default the sweep's own budgets and 3 and 10 times the
        largest. Columns flops, params, tokens, tokens_per_param, loss, size_value, verdict.
        """
        import pandas as pd

        budgets = sorted({e.compute_budget for e in self.plan.experiments})
        answers = [self.predict(c) for c in compute_budgets or [*budgets[:-1], *self._beyond()]]
        columns = ("flops", "params", "tokens", "tokens_per_param", "loss", "size_value", "verdict")
        return pd.DataFrame(
            [{name: getattr(answer, name) for name in columns} for answer in answers]
        )

    def _beyond(self) -> list[float]:
        """What is answered for unless asked otherwise."""
        largest = max(e.compute_budget for e in self.plan.experiments)
        return [factor * largest for factor in ANSWER_FACTORS]

    def _table(self) -> "RunTable":
        from flops_fit.fit.runs import prepare_runs

        return prepare_runs(run_frame(self.records, self.convention))

    def plot(
        self, folder: str | Path | None = None, compute_budgets: Sequence[float] | None = None
    ) -> list[Path]:
        """Draw the figures of the law to ``folder`` (default: plots, beside the results).

        Each is written as SVG, PNG and the numbers in it as CSV; returns the paths of the SVG files.
        ``compute_budgets``: answered for in them, by default the largest, and 3 and 10 times it.
        """
        from flops_fit.plots import FIGURES
        from flops_fit.plots.draw import draw_all

        folder = Path(folder or self.output_dir / "plots")
        budgets = list(compute_budgets or self._beyond())
        draw_all(self._table(), self.records, self.fitted(), budgets, folder)
        return [folder / f"{name}.svg" for name in FIGURES]

    def report(
        self, path: str | Path | None = None, compute_budgets: Sequence[float] | None = None
    ) -> Path:
        """Write the answer as one self-contained page, with its figures in plots beside it.

        ``path``: default report.html, beside the results. ``compute_budgets``: as in `plot`.
        Returns where it was written.
        """
        from flops_fit.files import write_atomic
        from flops_fit.report.page import report_page

        path = Path(path or self.output_dir / "report.html")
        budgets = list(compute_budgets or self._beyond())
        self.plot(path.parent / "plots", budgets)
        files = {name: self.output_dir / f"{name}.json" for name in ("results", "fit")}
        page = report_page(
            self._table(),
            self.records,
            self.fitted(),
            path.parent / "plots",
            budgets,
            self.output_dir.name,
            self._planned(),
            {n: p for n, p in files.items() if p.exists()},
        )
        write_atomic(path, page)
        return path

    def _planned(self) -> Plan:
        """The plan as the report reads it."""
        return Plan(
            fingerprint=canonical_hash([e.experiment_id for e in self.plan.experiments]),
            convention=self.convention,
            experiments=self.plan.experiments,
            skipped=self.plan.skipped,
            warnings=self.plan.warnings,
            beyond=self.plan.beyond,
        )

    def _shown_table(self) -> "pd.DataFrame":
        """The table of optima with its numbers written as on the page."""
        import pandas as pd

        from flops_fit.notation import count_text, flops_text, loss_text

        writers = {
            "flops": flops_text,
            "params": count_text,
            "tokens": count_text,
            "tokens_per_param": count_text,
            "loss": loss_text,
        }
        table = self.chinchilla_table()
        shown = {
            name: [None if pd.isna(v) else write(v) for v in table[name]]
            for name, write in writers.items()
        }
        return table.assign(**shown)

    def _repr_html_(self) -> str:
        """For notebooks: the same as `repr`, as a table."""
        head, _, _ = repr(self).partition("\n")
        table = "" if self.law is None else self._shown_table().to_html(index=False)
        return f"<p>{escape(head)}</p>{table}"

    def __repr__(self) -> str:
        done = sum(Status(record["status"]).usable for record in self.records)
        head = f"Result: {done} of {len(self.records)} runs completed"
        if self.plan.skipped:
            head += f", {len(self.plan.skipped)} cells skipped"
        if self.law is None:
            return f"{head}; no law: {self.reason}"
        headline = self.law.headline
        law = f"N* ~ C^{headline.a:.3f} by {headline.method} ({self.law.status})"
        if not self.law.identified:
            law = f"not identifiable: {self.law.missing}"
        return f"{head}; {law}\n{self._shown_table().to_string(index=False)}"


def compare(
    reference: "Result | Fit",
    candidate: "Result | Fit",
    flops: Sequence[float] | None = None,
    names: tuple[str, str] = ("reference", "candidate"),
) -> "Comparison":
    """Compare two recipes at matched compute: which is better, by how much, and how sure is that?

    ``reference`` and ``candidate``: results of `find_optimal`, or fits (`fit_runs`); results bring
    their records, which the list of what is not fair needs. ``flops``: the C to answer for, in FLOPs;
    by default every budget that both measured and 10 times the largest of them. ``names`` of the two.
    Raises `FlopsFitError` for losses in different units and where a result has no law.
    """
    from flops_fit.comparison.core import compare_fits

    sides = reference, candidate
    records = None
    if isinstance(reference, Result) and isinstance(candidate, Result):
        records = reference.records, candidate.records
    fits = [side.fitted() if isinstance(side, Result) else side for side in sides]
    return compare_fits(fits[0], fits[1], flops, names, records)


def run_frame(records: list[dict], convention: str) -> "pd.DataFrame":
    """The table that the fit reads, from ``records`` of the API; ``convention``: what budgets mean."""
    import pandas as pd

    from flops_fit.store.collect import run_table

    return pd.DataFrame(run_table(records, convention))
