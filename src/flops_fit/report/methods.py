"""The facts that a paper must report about a scaling law, filled in from the fit and its records.

The topics are those that a survey of published laws found missing (Li et al. 2025, 2502.18969).
"""

import hashlib
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flops_fit import __version__
from flops_fit.constants import TRUNK
from flops_fit.experiment.plan import Plan
from flops_fit.experiment.recipe import PluginRecipe, recipe_kind
from flops_fit.experiment.script_recipe import ScriptRecipe
from flops_fit.files import canonical_hash
from flops_fit.fit.result import Fit
from flops_fit.notation import count_text, flops_text, span_text, unit_text

FORMS = {
    "surface": "L(N, D) = E + A / N^alpha + B / D^beta",
    "tied": "L(N, D) = E + A / N^alpha + B / D^alpha, with one exponent",
    "fixed_e": "L(N, D) = E + A / N^alpha + B / D^beta, with E fixed at a given value",
    "isoflop": "a parabola in ln N for each compute budget, and N* ~ C^a through the minima",
    "stack": "a stack of L = E + (A/N^alpha + B N^kappa/D^beta)^gamma (gamma and kappa free, or fixed "
    "at 1 and 0) and of paths through IsoFLOP minima, weighted by their errors at held-out budgets",
    "envelope": "the lower envelope of the training curves, and N* ~ C^a along it",
}
OBJECTIVES = {
    "stack": "the summed Huber loss of the residuals of ln L, runs weighted by C^0, C^1 and C^2",
    "surface": "the summed Huber loss of the residuals of ln L",
    "tied": "the summed Huber loss of the residuals of ln L",
    "fixed_e": "the summed Huber loss of the residuals of ln L",
    "isoflop": "weighted least squares within each budget",
    "envelope": "least squares of ln N on ln C along the envelope",
}
CITED = {
    "stack": ("hoffmann2022", "besiroglu2024"),
    "surface": ("hoffmann2022", "besiroglu2024"),
    "tied": ("hoffmann2022", "besiroglu2024"),
    "fixed_e": ("hoffmann2022", "besiroglu2024"),
    "isoflop": ("hoffmann2022",),
    "envelope": ("hoffmann2022",),
}
PARAMS = {
    "params": "parameters in matrix products with the output head, without embedding look-ups",
    "params_nonembedding": "parameters in matrix products without embeddings and output head",
    "params_total": "all trainable parameters",
}
RATE = "Learning rate"
TOPICS = (
    "Model and shape rule",
    "Data and tokenizer",
    "Repeats",
    "Optimiser",
    RATE,
    "Schedule",
    "Batch",
    "Precision",
    "Evaluation",
)
SCRIPT_DECIDES = "decided by the script"
UNKNOWN = "unknown: the input was a table of finished runs"
REFERENCES = {
    "flopsfit": {
        "kind": "software",
        "title": "flops-fit: compute-optimal model size and data from IsoFLOP sweeps",
        "author": "{The flops-fit authors}",
        "version": __version__,
    },
    "hoffmann2022": {
        "kind": "article",
        "title": "Training Compute-Optimal Large Language Models",
        "author": "Hoffmann, Jordan and Borgeaud, Sebastian and Mensch, Arthur and others",
        "journal": "arXiv preprint arXiv:2203.15556",
        "year": "2022",
    },
    "besiroglu2024": {
        "kind": "article",
        "title": "Chinchilla Scaling: A replication attempt",
        "author": "Besiroglu, Tamay and Erdil, Ege and Barnett, Matthew and You, Josh",
        "journal": "arXiv preprint arXiv:2404.10102",
        "year": "2024",
    },
    "porian2024": {
        "kind": "article",
        "title": "Resolving Discrepancies in Compute-Optimal Scaling of Language Models",
        "author": "Porian, Tomer and Wortsman, Mitchell and Jitsev, Jenia and Schmidt, Ludwig and "
        "Carmon, Yair",
        "journal": "arXiv preprint arXiv:2406.19146",
        "year": "2024",
    },
    "muennighoff2023": {
        "kind": "article",
        "title": "Scaling Data-Constrained Language Models",
        "author": "Muennighoff, Niklas and others",
        "journal": "arXiv preprint arXiv:2305.16264",
        "year": "2023",
    },
    "li2025": {
        "kind": "article",
        "title": "(Mis)Fitting: A Survey of Scaling Laws",
        "author": "Li, Margaret and Kudugunta, Sneha and Zettlemoyer, Luke",
        "journal": "arXiv preprint arXiv:2502.18969",
        "year": "2025",
    },
}


def checklist(
    fit: Fit,
    records: list[dict],
    plan: Plan | None = None,
    files: Mapping[str, str | Path] | None = None,
) -> list[tuple[str, str]]:
    """Rows (topic, text) on everything that a paper should report about ``fit``.

    ``records`` and ``plan`` are empty or None for a table of existing runs, whose unknown facts are
    stated as unknown. ``files`` (label -> path) are hashed.
    """
    trained = [record for record in records if record.get("identity")]
    return [
        *_law_rows(fit),
        *_run_rows(fit, plan, bool(trained)),
        *_recipe_rows(trained, plan),
        *_trust_rows(fit),
        *_origin_rows(trained, plan, files or {}),
    ]


def _law_rows(fit: Fit) -> list[tuple[str, str]]:
    method = fit.headline.method
    objective = OBJECTIVES[method]
    if method in ("surface", "tied", "fixed_e"):
        objective += f", delta = {fit.delta:.3g}, minimised by a Newton method from several starts"
    return [
        ("Form", f"{FORMS[method]} ({method})"),
        ("Objective", objective),
        ("Choice of the form", fit.headline.why),
    ]


def _run_rows(fit: Fit, plan: Plan | None, ours: bool) -> list[tuple[str, str]]:
    """``ours``: the runs were trained here, so the meaning of their numbers is known."""
    data, left_out = fit.data, fit.excluded
    counted = {
        None: fit.cost.origin,
        "counted": "counted forward and backward FLOPs",
        "6nd": "6 N D",
    }[plan.convention if plan else None]
    column = data.params_column
    n_words = PARAMS[column] if ours else f"as in the column {column} of the table"
    d_words = "target elements trained on" if ours else "as in the table"
    measure = data.reading.loss_column
    loss_words = "held out" if ours else "as in the table, in"
    if measure is not None:
        loss_words = f"{measure}, {loss_words}"
    why = ", ".join(f"{n} {reason}" for reason, n in left_out.by_reason.items())
    runs = f"{data.n_runs} fitted, {left_out.count} left out"
    return [
        ("N", f"{n_words}; {span_text(data.params, count_text)}"),
        ("D", f"{d_words}; {span_text(data.tokens, count_text)}"),
        ("C", f"{counted}; {span_text(data.flops, flops_text)} FLOPs"),
        ("Runs", f"{runs} ({why})" if why else runs),
        ("Budgets", ", ".join(map(flops_text, data.budgets)) or "no shared budgets"),
        ("Seeds", str(data.seeds)),
        (
            "Loss",
            f"{loss_words}{', ' if ours else ' '}{unit_text(data.loss_unit)}; "
            f"{span_text(data.loss, '{:.4g}'.format)}",
        ),
    ]


def _recipe_rows(trained: list[dict], plan: Plan | None) -> list[tuple[str, str]]:
    if not trained:
        return [(topic, UNKNOWN) for topic in TOPICS]
    rows = RECIPE_ROWS[recipe_kind(trained[0]["identity"])](trained)
    if plan is None or not plan.rate_from:
        return rows
    return [(k, f"{text} ({plan.rate_from})" if k == RATE else text) for k, text in rows]


def _script_rows(trained: list[dict]) -> list[tuple[str, str]]:
    """The recipe of runs that a user's own script trained, as far as the plan knows it."""
    program = trained[0]["identity"]["trainer"]
    known = {
        "Model and shape rule": f"built by {' '.join(program['line'])}; only the size changes",
        "Learning rate": f"{_varied(trained, 'learning_rate')}, as given to the script",
        "Batch": f"{_varied(trained, 'batch_items')} items of {program['tokens_per_item']:,} tokens",
    }
    return [(topic, known.get(topic, SCRIPT_DECIDES)) for topic in TOPICS]


def _plugin_rows(trained: list[dict]) -> list[tuple[str, str]]:
    topics, identity = TOPICS, trained[0]["identity"]
    model, dataset, optimizer = identity["model"], identity["dataset"], identity["optimizer"]
    sources = ", ".join(value for _, value in dataset.get("sources", []))
    epochs = [record["epochs"] for record in trained if record.get("epochs")]
    schedule, evaluation = identity["schedule"], identity.get("evaluation", {})
    clip = optimizer.get("clip_norm", identity.get("clip_norm"))
    heldout = evaluation.get("tokens", identity.get("evaluation_tokens"))
    data = dataset.get("factory") or f"a dataset with hash {identity['content']['train'][:16]}"
    return [
        (topics[0], f"{_named(model)}; only {model['size_param']} changes between sizes"),
        (
            topics[1],
            f"{data}{_arguments(dataset.get('kwargs', {}))}"
            + (f" over {sources}" if sources else ""),
        ),
        (topics[2], f"at most {max(epochs):.2g} passes over the data" if epochs else "unknown"),
        (
            topics[3],
            f"{_named(optimizer)}, gradient norm "
            + (f"clipped at {clip:g}" if clip else "not clipped"),
        ),
        (topics[4], _varied(trained, "learning_rate")),
        (topics[5], _schedule_text(schedule)),
        (topics[6], _batch_text(trained)),
        (topics[7], {"no": "fp32"}.get(identity["precision"], identity["precision"])),
        (topics[8], f"{heldout:,} held-out tokens at the end of each run, the same for all runs"),
    ]


def _batch_text(trained: list[dict]) -> str:
    """The global batches of the ``trained`` runs, and how far they grow during a run."""
    first = _varied(trained, "batch_items")
    largest = [record["identity"].get("batch_growth", [])[-1:] for record in trained]
    grown = [batch for stages in largest for _, batch in stages]
    if not grown:
        return f"{first} items"
    last = span_text(grown, "{:g}".format)
    return (
        f"{first} at the start to {last} items at the end, growing in stages with the tokens seen"
    )


def _schedule_text(schedule: Mapping[str, Any]) -> str:
    """The ``schedule`` of the identity of a run in one sentence."""
    end = f"{schedule['final']:g} of the peak at the D of each run"
    if schedule["kind"] != TRUNK:
        warmup = f"warm-up over {100 * schedule['warmup']:g}% of D"
        return f"{schedule['kind']}, {warmup}, decaying to {end}"
    fall = "1 - sqrt" if schedule["shape"] == "sqrt" else schedule["shape"]
    return (
        f"warm-up over {schedule['warmup_tokens']:,} tokens, then constant, falling ({fall}) over the "
        f"last {100 * schedule['cooldown']:g}% to {end}; runs of one size share their first steps"
    )


RECIPE_ROWS = {PluginRecipe: _plugin_rows, ScriptRecipe: _script_rows}


def _trust_rows(fit: Fit) -> list[tuple[str, str]]:
    bootstrap, held = fit.bootstrap, fit.heldout
    scores = ", ".join(f"{name} {value:.2%}" for name, value in held.score.items())
    return [
        (
            "Intervals",
            f"{100 * bootstrap.level:g}%, from {bootstrap.resamples} resamples of "
            f"{bootstrap.unit}, seed {bootstrap.seed}"
            if bootstrap.resamples
            else "none, because the fit has no resamples",
        ),
        (
            "Validation",
            f"the largest {_some(held.levels_scored, 'budget')} predicted from the smaller ones; "
            f"score (excess loss at the predicted N* plus error of L*): {scores}"
            if held.levels_scored
            else "no budget could be held out",
        ),
    ]


def _origin_rows(trained: list[dict], plan: Plan | None, files: Mapping) -> list[tuple[str, str]]:
    versions = {"flops_fit": __version__}
    for package in dict.fromkeys(p for record in trained for p in record.get("versions", {})):
        known = sorted(
            {r["versions"][package] for r in trained if package in r.get("versions", {})}
        )
        versions[package] = ", ".join(known)
    hardware = Counter(f"{r['processes']} x {r.get('device_name') or r['device']}" for r in trained)
    hashes = [f"{name} {_hash_of(Path(path))[:16]}" for name, path in files.items()]
    plans = [f"plan {plan.fingerprint[:16]}"] if plan else []
    return [
        ("Hardware", ", ".join(f"{h} ({n} runs)" for h, n in hardware.items()) or UNKNOWN),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("Commit", working_commit() or "unknown: the working directory is not a git checkout"),
        ("Hashes (sha256)", ", ".join([*plans, *hashes]) or "none"),
    ]


def _hash_of(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    inside = {str(p.relative_to(path)): p for p in sorted(path.rglob("*")) if p.is_file()}
    return canonical_hash({name: _hash_of(file) for name, file in inside.items()})


def methods_paragraph(fit: Fit, rows: Iterable[tuple[str, str]]) -> str:
    """The ``rows`` of the `checklist` of ``fit`` as prose for a methods section.

    Citations are BibTeX keys in brackets.
    """
    topics, method, data = dict(rows), fit.headline.method, fit.data
    budgets = len(data.budgets)
    cited = "; ".join(CITED[method])
    grid = (
        f"{budgets} compute budgets from {span_text(data.budgets, flops_text)} FLOPs"
        if budgets
        else f"{span_text(data.flops, flops_text)} FLOPs"
    )
    known = topics["Model and shape rule"] != UNKNOWN
    sentences = [
        f"We {'trained' if known else 'used'} {data.n_runs} models at {grid}, with N from "
        f"{span_text(data.params, count_text)} ({topics['N'].split(';')[0]}) and D from "
        f"{span_text(data.tokens, count_text)} tokens."
    ]
    if known:
        sentences.append(
            f"The model was {topics['Model and shape rule']}; data: {topics['Data and tokenizer']}; "
            f"optimiser: {topics['Optimiser']}, peak learning rate {topics['Learning rate']}; schedule: "
            f"{topics['Schedule']}; batch: {topics['Batch']}; precision {topics['Precision']}."
        )
    sentences += [
        f"C means {topics['C'].split(';')[0].removeprefix('C = ')}.",
        f"We fitted {FORMS[method]} [{cited}] by {topics['Objective']}; runs: {topics['Runs']}.",
        f"Intervals: {topics['Intervals']}.",
        f"Validation: {topics['Validation']}.",
        f"Software: {topics['Versions']}.",
    ]
    return " ".join(sentences)


def bibliography(fit: Fit, records: list[dict]) -> str:
    """BibTeX of flops-fit and of the papers that the analysis in ``fit`` and its ``records`` uses."""
    keys = ["flopsfit", *CITED[fit.headline.method], "porian2024", "li2025"]
    if any((record.get("epochs") or 0) > 1 for record in records):
        keys.append("muennighoff2023")
    return "\n\n".join(_entry(key) for key in keys)


def _entry(key: str) -> str:
    fields = dict(REFERENCES[key])
    lines = [
        f"  {name} = {{{{{value}}}}}" if name == "title" else f"  {name} = {{{value}}}"
        for name, value in fields.items()
        if name != "kind"
    ]
    return f"@{fields['kind']}{{{key},\n" + ",\n".join(lines) + "\n}"


def working_commit() -> str:
    """The git commit of the working directory, marked if files differ; empty without a checkout."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _some(count: int, noun: str) -> str:
    return noun if count == 1 else f"{count} {noun}s"


def _varied(trained: list[dict], key: str) -> str:
    return span_text([record["identity"][key] for record in trained], "{:g}".format)


def _named(part: Mapping) -> str:
    """The name of a model or an optimiser: its factory in a config, its reference in Python."""
    return f"{part.get('factory') or part['reference']}{_arguments(part.get('kwargs', {}))}"


def _arguments(kwargs: Mapping) -> str:
    return f" ({', '.join(f'{k}={v}' for k, v in kwargs.items())})" if kwargs else ""
