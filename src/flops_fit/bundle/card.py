"""The README of a bundle, which a hub of data sets shows as its data card."""

from flops_fit import __version__
from flops_fit.bundle.archive import CONFIG, PLAN, Bundle
from flops_fit.constants import ANSWER_FACTORS
from flops_fit.fit.result import Fit
from flops_fit.notation import count_text, flops_text, unit_text
from flops_fit.report.table import answer_table

CONTENTS = {
    "report.html": "the report, one page that needs no network",
    "fit.json": "the fitted law with its intervals, for `flops-fit predict`",
    "results.csv": "one row per run: N (`params`), D (`tokens`), C (`flops`), held-out loss (`loss`)",
    "results.json": "the same runs with their loss curves and everything that determined them",
    "runs/ID/record.json": "the sealed record of each run",
    "plan.json": "the plan of the sweep",
    "config.yaml": "its config, with all defaults",
    "ro-crate-metadata.json": "the checksum of every file (RO-Crate 1.1)",
}
MORE_RUNS = (
    "To train more runs of this sweep, give `config.yaml` to Snakemake; runs that are in the bundle are "
    "not trained again."
)


def data_card(bundle: Bundle, fit: Fit) -> str:
    """The README of ``bundle`` as Markdown with the metadata block of a hub.

    ``fit`` is the fit in it.
    """
    data = fit.data
    kept = {bundle.table: "the table of runs"} | {
        name: text
        for name, text in CONTENTS.items()
        if name in bundle.files
        or name.startswith(("ro-crate", "runs/" if PLAN in bundle.files else "ro"))
    }
    budgets = [data.largest_budget * factor for factor in ANSWER_FACTORS]
    license = [f"license: {bundle.license}"] if bundle.license else []
    return "\n".join(
        [
            "---",
            f"pretty_name: Scaling-law sweep {bundle.name}",
            *license,
            "tags: [scaling-laws, isoflop, flops-fit]",
            "---",
            "",
            f"# Scaling-law sweep {bundle.name}",
            "",
            f"{data.n_runs} training runs of {count_text(data.params[0])} to "
            f"{count_text(data.params[1])} parameters and {count_text(data.tokens[0])} to "
            f"{count_text(data.tokens[1])} tokens, up to {flops_text(data.largest_budget)} FLOPs, with "
            f"their losses in {unit_text(data.loss_unit)} and the scaling law fitted to them by "
            f"flops-fit {__version__} ({bundle.dated}).",
            "",
            "## Answers",
            "",
            answer_table(fit, budgets),
            "## Files",
            "",
            "| file | content |",
            "|:---|:---|",
            *(f"| `{name}` | {text} |" for name, text in kept.items()),
            "",
            "## Use",
            "",
            "```",
            f"flops-fit import {bundle.name}.zip   # verifies the checksums and the fit, adds the runs",
            f"flops-fit predict --fit results/{bundle.name}/fit.json --flops {budgets[0]:g}",
            "```",
            "",
            MORE_RUNS
            if CONFIG in bundle.files
            else "The config of the sweep is not in this bundle.",
            *([] if bundle.license else ["", "Its author stated no license."]),
            "",
        ]
    )
