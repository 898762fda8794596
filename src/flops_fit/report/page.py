"""The page: the texts of all sections filled into the template."""

from collections.abc import Sequence
from pathlib import Path

from flops_fit.experiment.plan import Plan
from flops_fit.fit.purchase import Machine
from flops_fit.fit.result import Fit
from flops_fit.fit.runs import RunTable
from flops_fit.fit.verdict import has_trend
from flops_fit.notation import flops_text, loss_text, share_text, span_text, unit_text
from flops_fit.report.answer_text import answers_of, model_of, program_of, range_bars
from flops_fit.report.commands import commands_of, place
from flops_fit.report.evidence import (
    METHODS,
    confirmations_of,
    estimators_of,
    heldout_of,
    members_of,
    minima_of,
    surface_status,
    tests_of,
)
from flops_fit.report.figures import figures_of
from flops_fit.report.health import health_of
from flops_fit.report.humps import humps_sentence
from flops_fit.report.methods import bibliography, checklist, methods_paragraph
from flops_fit.report.opening import answer_sentence, cards_of, checks_of, studied
from flops_fit.report.pages import fill
from flops_fit.report.questions import questions_of
from flops_fit.report.refits import sensitivity_of

TEMPLATE = "page.html.j2"


def report_page(
    table: RunTable,
    records: list[dict],
    fit: Fit,
    plots: str | Path,
    budgets: list[float],
    name: str,
    plan: Plan | None = None,
    files: dict[str, Path] | None = None,
    confirmed: Sequence[dict] = (),
    ledger: str = "",
    dated: str = "",
    asked: dict[str, float | None] | None = None,
    bought: tuple[Machine, float] | None = None,
    plan_file: str | None = None,
) -> str:
    """The page of the sweep ``name`` as HTML.

    ``table`` holds the runs of ``fit``, ``records`` their records (empty for a table of existing
    runs), ``plots`` is the folder of the figures, ``budgets`` are those to answer for in FLOPs, and
    ``plan`` is the content of the plan file. ``files`` (label -> path) are hashed in the section
    Reproduce; ``confirmed`` are finished confirmations (`flops_fit.rounds.confirm.compare`) of
    predictions of this sweep; ``ledger`` is a sentence on those of all sweeps; ``dated`` is the day
    of the fit. ``asked`` are the questions beside the budgets, by the names that `flops_fit.fit.ask`
    gives them; ``bought`` are devices and their hours, to be answered for as well. ``plan_file`` is
    the file of the plan, where Snakemake made it.
    """
    answers = [
        {**answer, "checks": checks_of(answer, fit)} for answer in answers_of(fit, budgets, records)
    ]
    answered = [answer for answer in answers if answer["params"] is not None]
    identified = [answer["flops"] for answer in answered]
    topics = checklist(fit, records, plan, files)
    model = model_of(records)
    return fill(
        TEMPLATE,
        {
            "sentence": lambda text: text[:1].upper() + text[1:],
            "loss": loss_text,
            "digits": lambda value: f"{value:#.4g}".removesuffix("."),
            "share": share_text,
        },
        name=name,
        fit=fit,
        unit=unit_text(fit.data.loss_unit),
        level=f"{100 * fit.bootstrap.level:g}%",
        answers=answers,
        answered=answered,
        cards=cards_of(answers),
        method=METHODS[fit.headline.method],
        trend=has_trend(fit),
        span=span_text(fit.data.flops, flops_text),
        surface_status=surface_status(fit),
        bars=range_bars(answered),
        minima=minima_of(fit),
        humps=humps_sentence(fit, identified[-1]) if identified else "",
        estimators=estimators_of(fit, identified),
        heldout=heldout_of(fit),
        members=members_of(fit),
        tests=tests_of(fit),
        confirmations=confirmations_of(confirmed),
        ledger=ledger,
        sensitivity=sensitivity_of(fit, identified),
        health=health_of(table, records, fit, plan),
        model=model,
        headline=answer_sentence(answers, model["size_param"] if model else "size"),
        studied=studied(fit, model, program_of(records), dict(topics), dated),
        fit_file=place((files or {}).get("fit", "fit.json")),
        commands=commands_of(fit, files or {}, budgets[0], name, plan_file),
        checklist=topics,
        topics=dict(topics),
        methods=methods_paragraph(fit, topics),
        bibtex=bibliography(fit, records),
        figures=figures_of(plots),
        convention=plan.convention if plan else None,
        trains=bool(records),
        budgets=budgets,
        questions=questions_of(fit, budgets, asked or {}, bought),
    )
