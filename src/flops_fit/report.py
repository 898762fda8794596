"""The answer as one self-contained HTML page and as a Markdown table.

Everything numeric comes from ``predict`` and FIT.json; this module chooses words and places.
"""

import base64
import hashlib
import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from flops_fit.errors import FlopsFitError
from flops_fit.fit import predict
from flops_fit.fit.answer import laws_of
from flops_fit.fit.cost import Cost
from flops_fit.fit.runs import RunTable
from flops_fit.notation import (
    count_text,
    factor_text,
    flops_text,
    loss_text,
    share_text,
    time_text,
    unit_text,
)
from flops_fit.plots import FIGURES

DEFAULT_FACTORS = (1, 3, 10)  # of the largest budget
QUANTITIES = (
    ("params", "Parameters N", count_text),
    ("tokens", "Tokens D", count_text),
    ("tokens_per_param", "Tokens per parameter", count_text),
    ("loss", "Expected loss", loss_text),
)
ESTIMATORS = {
    "surface": "surface L(N, D), approach 3",
    "isoflop": "IsoFLOP minima, approach 2",
    "envelope": "envelope of training curves, approach 1",
    "tied": "surface with α = β",
    "fixed_e": "surface with E held fixed",
}
STATUSES = {
    "bracketed": "minimum, used",
    "at_edge": "at the edge of the sizes tried, not used",
    "no_minimum": "no minimum, not used",
    "too_few_points": "too few sizes, not used",
}
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def default_budgets(fit: dict) -> list[float]:
    """The budgets to answer for where none are asked: the largest of the data, times 1, 3, 10."""
    return [fit["data"]["largest_budget"] * factor for factor in DEFAULT_FACTORS]


# Parts of the page, as plain data


def answers_of(fit: dict, budgets: list[float]) -> list[dict]:
    """`predict` at each budget, with the written form of every number beside it."""
    answers = []
    for flops in budgets:
        answer = predict(fit, flops)
        rows = [
            {"name": name, "label": label, "value": answer[name], "text": write(answer[name]),
             "interval": _interval(answer["ci"].get(name), write)}
            for name, label, write in QUANTITIES
        ]  # fmt: skip
        ranges = {share: _interval(answer[f"range_{share}pct"], count_text) for share in ("1", "5")}
        answers.append({**answer, "rows": rows, "checked": _checked(answer, fit), "ranges": ranges,
                        "budget": flops_text(answer["flops"]),
                        "beyond": _beyond(answer["beyond_data"])})  # fmt: skip
    return answers


def _interval(ends: list[float] | None, write) -> dict | None:
    if not ends:
        return None
    return {"low": ends[0], "high": ends[1], "text": f"{write(ends[0])} – {write(ends[1])}"}


def _checked(answer: dict, fit: dict) -> str:
    """What the verdict could look at: with fewer runs or estimators, fewer things."""
    checks = ["the distance from the data"]
    if fit["isoflop"]["shared"]:
        checks.append("the brackets of the minima")
    if answer["ci"]:
        checks.append("the width of the interval")
    if len(answer["estimators"]) > 1:
        checks.append("the agreement of the estimators")
    return ", ".join(checks[:-1]) + " or " * (len(checks) > 1) + checks[-1]


def _beyond(factor: float) -> str:
    if abs(factor - 1) < 1e-9:
        return "the largest budget of the data"
    if factor < 1:
        return f"inside the data, {factor_text(factor)} the largest budget"
    return f"{factor_text(factor)} the largest budget: extrapolated"


def range_bars(answers: list[dict]) -> list[dict]:
    """Where each range of good sizes lies on one axis of ln N, in per cent of its width.

    ``wide`` and ``near`` are [left, width] of the 5% and the 1% range, ``best`` is N*.
    """
    low = min(answer["range_5pct"][0] for answer in answers)
    high = max(answer["range_5pct"][1] for answer in answers)
    scale = 100 / max(float(np.log(high / low)), 1e-9)

    def at(params: float) -> float:
        return round(float(np.log(params / low)) * scale, 2)

    def span(ends: list[float]) -> list[float]:
        return [at(ends[0]), round(at(ends[1]) - at(ends[0]), 2)]

    return [
        {"wide": span(a["range_5pct"]), "near": span(a["range_1pct"]), "best": at(a["params"])}
        for a in answers
    ]


def minima_of(fit: dict) -> list[dict]:
    """The measured minimum of each budget with its status in words."""
    return [
        {**b, "budget": flops_text(b["flops"]), "params": count_text(b["params_opt"]),
         "tokens": count_text(b["tokens_opt"]), "loss": loss_text(b["loss_opt"]),
         "ratio": count_text(b["tokens_opt"] / b["params_opt"]), "words": STATUSES[b["status"]]}
        for b in fit["isoflop"]["budgets"]
    ]  # fmt: skip


def estimators_of(fit: dict, budgets: list[float]) -> list[dict]:
    """Every estimator of the fit: status, exponent a with interval, N* at each budget."""
    cost, rows = Cost.from_dict(fit["cost"]), []
    for name, (law, _) in laws_of(fit).items():
        entry = fit["parametric"] if name == "surface" else fit[name]
        optimum = [float(np.exp(law.optimum(np.log(c), cost)[0][0])) for c in budgets]
        ci = fit["ci"].get("a" if name == "surface" else f"{name}.a")
        fixed = name == "tied"
        rows.append({
            "name": name, "label": ESTIMATORS.get(name, name), "status": entry["status"],
            "reason": entry["reason"], "headline": name == fit["headline"]["method"],
            "a": f"{entry['a']:.3f}" + (" (fixed)" if fixed else ""),
            "a_interval": None if fixed or not ci else f"{ci[0]:.3f} – {ci[1]:.3f}",
            "params": [{"value": n, "text": count_text(n)} for n in optimum],
        })  # fmt: skip
    return rows


def heldout_of(fit: dict) -> list[dict]:
    """Predicted against measured optimum of each budget left out, a row per estimator."""
    return [
        {"left_out": level["left_out"], "budget": flops_text(p["flops"]),
         "up_to": flops_text(level["trained_up_to"]), "estimator": p["estimator"],
         "headline": p["estimator"] == fit["headline"]["method"],
         "params": count_text(p["params"]), "params_measured": count_text(p["params_measured"]),
         "loss": loss_text(p["loss"]), "loss_measured": loss_text(p["loss_measured"]),
         "excess": share_text(p["excess"]), "loss_error": f"{100 * p['loss_error']:+.2f}%"}
        for level in fit["heldout"]["levels"]
        for p in level["predictions"]
    ]  # fmt: skip


def health_of(table: RunTable, records: list[dict], fit: dict, plan: dict | None) -> dict:
    """Planned against spent, and every run or cell that is not behind the law, with its reason."""
    reasons = {r["experiment_id"]: r.get("reason", "") for r in records}
    budgets = {r["experiment_id"]: flops_text(r["compute_budget"]) for r in records}
    left_out = [
        {"run": run["run_id"], "budget": budgets.get(run["run_id"], ""),
         "why": ": ".join(filter(None, [run["reason"], reasons.get(run["run_id"], "")]))}
        for run in fit["excluded"]["runs"]
    ]  # fmt: skip
    skipped = [
        {"budget": flops_text(cell["compute_budget"]), "size": cell["size_param_value"],
         "why": cell["reason"]}
        for cell in (plan or {}).get("skipped", [])
    ]  # fmt: skip
    return {
        "left_out": left_out,
        "skipped": skipped,
        "warnings": (plan or {}).get("warnings", []),
        "spent": _spent(records, plan),
        "runs": _runs(table, records),
    }


def _spent(records: list[dict], plan: dict | None) -> list[dict]:
    """Rows (label, value) on what the sweep cost."""
    trained = [r for r in records if r.get("tokens_seen")]
    if not trained:
        return []
    key = "flops_6nd" if (plan or {}).get("convention") == "6nd" else "flops_counted"
    done, planned = (
        sum(r[key] for r in trained),
        sum(e[key] for e in (plan or {"experiments": []})["experiments"]),
    )
    counts = Counter(r["status"] for r in records)
    rows = [("Runs", ", ".join(f"{n} {status}" for status, n in counts.items()))]
    rows.append(("Training FLOPs", flops_text(done)
                 + (f" of {flops_text(planned)} planned" if planned else "")))  # fmt: skip
    seconds = [r["wall_seconds"] for r in trained if r.get("wall_seconds")]
    if seconds:
        rows.append(
            (
                "Time of all runs",
                f"{time_text(sum(seconds))}; the longest {time_text(max(seconds))}",
            )
        )
    speeds = [r["flops_counted"] / r["wall_seconds"] for r in trained if r.get("wall_seconds")]
    if speeds:
        rows.append(
            ("Throughput", f"{flops_text(min(speeds))} to {flops_text(max(speeds))} FLOP/s a run")
        )
    waiting = [r["data_share"] for r in trained if r.get("data_share") is not None]
    if waiting:
        rows.append(("Waiting for data", f"at most {100 * max(waiting):.0f}% of a run's time"))
    epochs = [r["epochs"] for r in trained if r.get("epochs")]
    if epochs:
        rows.append(("Passes over the training data", f"at most {max(epochs):.2g}"))
    return rows


def _runs(table: RunTable, records: list[dict]) -> list[dict]:
    """Every run that reached the fit, as text."""
    known = {r["experiment_id"]: r for r in records}
    rows = []
    for run in table.frame.sort_values(["flops", "params"]).to_dict("records"):
        record = known.get(run["run_id"], {})
        rows.append({
            "run": run["run_id"], "flops": flops_text(run["flops"]),
            "params": count_text(run["params"]), "tokens": count_text(run["tokens"]),
            "loss": loss_text(run["loss"]),
            "speed": count_text(record["tokens_per_second"]) if record.get("tokens_per_second") else "",
            "time": time_text(record["wall_seconds"]) if record.get("wall_seconds") else "",
        })  # fmt: skip
    return rows


def recipe_of(records: list[dict]) -> dict | None:
    """What all runs share: the scope within which the law holds."""
    identity = next((r["identity"] for r in records if r.get("identity")), None)
    if identity is None:
        return None
    kwargs = ", ".join(f"{k}={v}" for k, v in identity["model"]["kwargs"].items())
    schedule = identity["schedule"]
    return {
        "size_param": identity["model"]["size_param"],
        "model": identity["model"]["factory"] + (f" ({kwargs})" if kwargs else ""),
        "data": ", ".join(value for _, value in identity["dataset"].get("sources", []))
        or identity["dataset"]["factory"],
        "loss": identity["loss"]["function"],
        "optimizer": identity["optimizer"]["factory"],
        "schedule": f"{schedule['kind']}, warm-up {100 * schedule['warmup']:g}% of D",
        "precision": {"no": "fp32"}.get(identity["precision"], identity["precision"]),
        "heldout": f"{identity['evaluation']['tokens']:,} held-out tokens, the same for every run",
        "learning_rates": _span(
            [r["identity"]["learning_rate"] for r in records if "identity" in r]
        ),
        "batches": _span([r["identity"]["batch_items"] for r in records if "identity" in r]),
    }


def _span(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def provenance_of(records: list[dict], plan: dict | None, files: dict[str, Path]) -> list[tuple]:
    """Rows (label, value): versions, machines, hashes."""
    rows = []
    trained = [r for r in records if r.get("versions")]
    for package in dict.fromkeys(p for r in trained for p in r["versions"]):
        found = sorted({r["versions"][package] for r in trained if package in r["versions"]})
        rows.append((package, ", ".join(found)))
    if trained:
        hosts = Counter(r["host"] for r in trained)
        rows.append(("hosts", ", ".join(f"{h} ({n} runs)" for h, n in hosts.items())))
        devices = Counter(f"{r['device']} x {r['processes']}" for r in trained)
        rows.append(("devices", ", ".join(f"{d} ({n} runs)" for d, n in devices.items())))
        rows.append(("trainer version", _span([r["identity"]["trainer_version"] for r in trained])))
    if plan:
        rows.append(("plan", plan["fingerprint"][:16]))
    for name, path in files.items():
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        rows.append((name, f"sha256 {digest[:16]}"))
    return rows


# Figures


def inline_svg(path: Path, name: str, title: str) -> str:
    """The SVG of ``path`` for use inside a page: ids prefixed with ``name``, sized by the page.

    Several matplotlib figures in one page would otherwise share ids, and the clip paths and
    glyphs of one would be taken from another.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise FlopsFitError(f"{path}: no such figure; run `flops-fit plot` first") from None
    except ElementTree.ParseError as error:
        raise FlopsFitError(f"{path}: not an SVG file ({error})") from None
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif key.endswith("href") and value.startswith("#"):
                element.set(key, f"#{name}-{value[1:]}")
            elif "url(#" in value:
                element.set(key, re.sub(r"url\(#", f"url(#{name}-", value))
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", title)
    return ElementTree.tostring(root, encoding="unicode")


def figures_of(folder: str | Path) -> dict[str, dict]:
    """Each figure as inline SVG, with its numbers as a data link."""
    figures = {}
    for name, title in FIGURES.items():
        numbers = Path(folder, f"{name}.csv")
        data = base64.b64encode(numbers.read_bytes()).decode() if numbers.exists() else ""
        figures[name] = {"name": name, "svg": inline_svg(Path(folder, f"{name}.svg"), name, title),
                         "csv": f"data:text/csv;base64,{data}" if data else ""}  # fmt: skip
    return figures


# The page and the table


def report_page(
    table: RunTable,
    records: list[dict],
    fit: dict,
    plots: str | Path,
    budgets: list[float],
    name: str,
    plan: dict | None = None,
    files: dict[str, Path] | None = None,
) -> str:
    """The whole page as HTML. ``files`` (label -> path) are hashed under reproduce."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flops_fit", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        sentence=lambda text: text[:1].upper() + text[1:],
        count=count_text,
        flops=flops_text,
        loss=loss_text,
        factor=factor_text,
        share=share_text,
    )
    answers = answers_of(fit, budgets)
    return environment.get_template("report.html.j2").render(
        name=name,
        fit=fit,
        unit=unit_text(fit["data"]["loss_unit"]),
        level=f"{100 * fit['bootstrap']['level']:g}%",
        answers=answers,
        bars=range_bars(answers),
        minima=minima_of(fit),
        estimators=estimators_of(fit, budgets),
        heldout=heldout_of(fit),
        health=health_of(table, records, fit, plan),
        recipe=recipe_of(records),
        provenance=provenance_of(records, plan, files or {}),
        figures=figures_of(plots),
        convention=(plan or {}).get("convention"),
        budgets=budgets,
    )


def markdown_table(fit: dict, budgets: list[float]) -> str:
    """Optima per budget, measured, then the answers, as Markdown."""
    unit, level = unit_text(fit["data"]["loss_unit"]), f"{100 * fit['bootstrap']['level']:g}%"
    lines = []
    minima = minima_of(fit)
    if minima:
        lines += [
            "## Measured optima", "",
            f"| C (FLOPs) | N* | D* | D*/N* | loss ({unit}) | status |",
            "|---:|---:|---:|---:|---:|:---|",
            *(f"| {m['budget']} | {m['params']} | {m['tokens']} | {m['ratio']} | {m['loss']} "
              f"| {m['words']} |" for m in minima),
            "",
        ]  # fmt: skip
    lines += [
        "## Answers", "",
        f"In brackets: {level} interval. Good sizes: N within 1% of the best compute. "
        f"Headline estimator: {fit['headline']['method']}.", "",
        f"| C (FLOPs) | N* | D* | D*/N* | loss ({unit}) | good sizes | size | verdict |",
        "|---:|---:|---:|---:|---:|---:|---:|:---|",
    ]  # fmt: skip
    for answer in answers_of(fit, budgets):
        cells = [answer["budget"]]
        for row in answer["rows"]:
            cells.append(row["text"] + (f" [{row['interval']['text']}]" if row["interval"] else ""))
        size = answer["size_value"]
        cells += [answer["ranges"]["1"]["text"], "" if size is None else str(size)]
        cells.append("; ".join([answer["verdict"], *answer["reasons"]]))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
