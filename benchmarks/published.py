"""How answers have held on published sweeps: the largest budgets left out, asked for, compared.

    FLOPS_FIT_PUBLISHED_RUNS=DIR python benchmarks/published.py [--out ROWS.json] [--most 6]
    python benchmarks/published.py --from ROWS.json [--write]

Every table below DIR with params, tokens, flops and loss loses its largest 1 to ``--most`` budgets;
the rest is fitted as `flops-fit fit` does and asked for each of them. The answer is held against a
local curve through the runs of that budget, without any law (`flops_fit.fit.measure`), whose own error
is allowed for. Constants are cross-fitted: for each table the prior error of the form comes from the
other families (``halves``: from the half of the families that the table is not in). ``--write``
renews the package's ``prior.json`` (all families) and ``record.json`` (cross-fitted). The last line is
one JSON object.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from scipy.stats import norm

from flops_fit.errors import FlopsFitError
from flops_fit.files import write_json
from flops_fit.fit import Fit, fit_runs, predict, read_runs
from flops_fit.fit.calibrate import PRIOR, QUANTITIES, from_tests, moments
from flops_fit.fit.chain import shrunk
from flops_fit.fit.form_error import PRIOR_DF
from flops_fit.fit.measure import groups_of, measure
from flops_fit.fit.prediction import losses_at
from flops_fit.fit.runs import RunTable, budget_groups
from flops_fit.fit.sections import FittedLaw

NEEDED = {"params", "tokens", "flops", "loss"}
LEAST = {
    "params": 1e-4,
    "loss": 1e-7,
}  # mean square error of the form: what a family shows at least
RECORD = PRIOR.with_name("record.json")
BANDS = {"up to 3x": (0.0, 3.0), "3x to 10x": (3.0, 10.1), "beyond 10x": (10.1, np.inf)}
COMMAND = "python benchmarks/published.py"


def tables(folder: Path) -> dict[str, RunTable]:
    """Every readable table below ``folder`` that has what is needed, by name."""
    found = {}
    for path in sorted(folder.rglob("*.csv")):
        if set(pd.read_csv(path, nrows=0).columns) >= NEEDED:
            found[path.stem] = read_runs(path)
    return found


def family(name: str) -> str:
    """Sweeps of one source share their tricks, so they count as one family."""
    return name.split("_")[0]


def held_out(name: str, table: RunTable, most: int, resamples: int) -> list[dict]:
    """One row for every number of budgets left out and every one of them that shows a minimum."""
    frame = table.frame
    log_c = np.log(frame["flops"].to_numpy())
    groups = groups_of(log_c, budget_groups(frame)[0])
    kept = fit_runs(table, bootstrap=0, sensitivity=False).excluded
    gone = frame["experiment_id"].isin({run.experiment_id for run in kept.runs}).to_numpy()
    minima = measure(
        np.log(frame["params"].to_numpy()),
        np.log(frame["loss"].to_numpy()),
        log_c,
        groups,
        (~gone).astype(float),
    )
    known = [m for m in minima if m]
    rows = []
    for out in range(1, most + 1):
        if len(groups) - out < 2:
            break
        left = np.concatenate([r for _, r in groups[-out:]])
        part = frame.drop(index=frame.index[left])
        part = part[part["flops"] <= min(frame["flops"].iloc[left].min() * 1.03, np.inf)]
        try:
            fit = fit_runs(
                RunTable(part.reset_index(drop=True), name, table.left_out, table.sizes),
                bootstrap=resamples,
                sensitivity=False,
            )
        except FlopsFitError:
            break
        if predict(fit, groups[-1][0]).params is None:
            rows.append({"table": name, "out": out, "verdict": "not identifiable"})
            continue
        for (flops, members), minimum in zip(groups[-out:], minima[-out:], strict=True):
            if minimum is not None:
                runs = frame.iloc[members][~gone[members]]
                rows.append(_row(name, out, fit, flops, minimum, known, runs))
    return rows


def _row(name, out, fit, flops, minimum, known, runs) -> dict:
    """What is needed to score one answer under any prior."""
    near = sorted(known, key=lambda m: abs(np.log(m.flops / flops)))[:3]
    slope = -np.polyfit(np.log([m.flops for m in near]), [m.log_loss for m in near], 1)[0]
    answer = predict(fit, flops)
    loss = losses_at(fit, runs["params"], runs["tokens"])["loss"]
    off = minimum.excess(float(np.log(answer.params)))
    noise = answer.ci_noise
    z = 2 * norm.ppf((1 + fit.bootstrap.level) / 2)
    surface = fit.laws["surface"]
    return {
        "table": name,
        "family": family(name),
        "out": out,
        "flops": flops,
        "beyond": answer.beyond_data,
        "params": np.log(answer.params),
        "loss": np.log(answer.loss),
        "measured": [minimum.log_n, minimum.log_loss, minimum.se_n, minimum.se_loss],
        "sd": [float(np.log(noise[q][1] / noise[q][0]) / z) for q in QUANTITIES],
        "reach": [float(np.log(v / answer.params)) for v in answer.range_5pct],
        "waste": float(np.expm1(np.clip(max(off, 0.0) / max(slope, 1e-3), 0, 5))),
        "other": [r for r in answer.reasons if "with a probability" not in r],
        "noise": fit.stack.noise,
        "runs": float(np.median(np.abs(np.log(loss) - np.log(runs["loss"])))),
        "tests": [list(moments(fit.stack.tests[q], q)) for q in QUANTITIES],
        "classic": _classic(surface, flops, fit),
    }


def _classic(surface: FittedLaw, flops: float, fit: Fit) -> list[float]:
    """ln N*, ln L* and percentile half widths of the classic surface: what was printed before."""
    log_c = np.log(flops)
    point = surface.law.optimum(log_c, fit.cost)
    drawn = surface.draws.optimum(log_c, fit.cost)
    halves = [np.diff(np.quantile(v, [0.05, 0.95]))[0] / 2 for v in (drawn[0], np.log(drawn[1]))]
    return [float(point[0][0]), float(np.log(point[1][0])), *map(float, halves)]


def whole(found: dict[str, RunTable]) -> dict[str, list]:
    """Table -> [(S, W) of N*, of L*] from its tests on itself."""
    shown = {}
    for name, table in found.items():
        stack = fit_runs(table, bootstrap=0, sensitivity=False).stack
        shown[name] = [list(moments(stack.tests[q], q)) for q in QUANTITIES]
    return shown


def prior_from(shown: dict[str, list], use) -> dict:
    """tau by quantity: the geometric mean over the families in ``use`` of their mean square."""
    told = {}
    for i, name in enumerate(QUANTITIES):
        squares = []
        for fam in sorted({family(t) for t in shown if family(t) in use}):
            part = [m[i] for t, m in shown.items() if family(t) == fam]
            mass = sum(w for _, w in part)
            if mass > 0:
                squares.append(np.log(max(sum(s for s, _ in part) / mass, LEAST[name])))
        told[name] = float(np.exp(np.mean(squares) / 2))
    return told


def judged(row: dict, prior: dict, level: float = 0.90) -> dict:
    """Coverage, widths and promise of a row under a prior."""
    away, told = float(np.log(row["beyond"])), {}
    for i, name in enumerate(QUANTITIES):
        form = from_tests(*row["tests"][i], shrunk(prior[name], row["noise"]))
        error, se = row[name] - row["measured"][i], row["measured"][2 + i]
        half = form.half_width(row["sd"][i], away, level)
        told[name] = {
            "error": abs(error),
            "half": half,
            "held": abs(error) <= np.hypot(half, norm.ppf((1 + level) / 2) * se),
            "bare": abs(error) <= half,
            "wider": half / max(row["classic"][2 + i], 1e-12),
        }
        if name == "params":
            low, high = row["reach"]
            promise = form.inside(-high, -low, row["sd"][i], away)
    told["trust"] = bool(promise >= 0.90 and not row["other"])
    told["kept"] = row["waste"] <= 0.05
    return told


def _binomial(values) -> str:
    values = np.asarray(values, dtype=float)
    if not len(values):
        return "-"
    share = values.mean()
    return f"{100 * share:.1f} ± {100 * np.sqrt(share * (1 - share) / len(values)):.1f}"


def line(label: str, rows: list[dict], scored: list[dict]) -> dict | None:
    """Print one line of the summary; returns its numbers."""
    if not rows:
        return None
    get = lambda q, k: np.array([s[q][k] for s in scored], dtype=float)  # noqa: E731
    trust = np.array([s["trust"] for s in scored])
    kept = np.array([s["kept"] for s in scored])
    waste = np.array([r["waste"] for r in rows])
    told = {"rows": len(rows)}
    text = f"{label:34s} {len(rows):4d}"
    for q, unit in (("params", 1), ("loss", 100)):
        e, h, w = get(q, "error"), get(q, "half"), get(q, "wider")
        text += (
            f" | {_binomial(get(q, 'held')):>11s} ({100 * get(q, 'bare').mean():.0f}) half "
            f"{unit * np.median(h):.3f} x{np.median(w):.2f} err {unit * np.median(e):.3f} "
            f"{unit * np.quantile(e, 0.9):.3f}"
        )
        told[q] = round(float(get(q, "held").mean()), 3)
    text += f" | trust {100 * trust.mean():.0f}% kept {_binomial(kept[trust])}"
    if trust.any():
        text += f" waste90 {100 * np.quantile(waste[trust], 0.9):.1f}%"
    text += f"; all: kept {_binomial(kept)} waste90 {100 * np.quantile(waste, 0.9):.1f}%"
    print(text)
    told |= {
        "trust": int(trust.sum()),
        "kept": round(float(kept[trust].mean()), 3) if trust.any() else None,
        "waste_90": round(float(np.quantile(waste[trust], 0.9)), 4) if trust.any() else None,
    }
    return told


def summary(rows: list[dict], priors: dict[str, dict], few: tuple, most: float) -> dict:
    """The lines of one range of budgets left out, at most ``most`` x beyond."""
    part = [r for r in rows if "params" in r and r["out"] in few and r["beyond"] <= most]
    scored = [judged(r, priors[r["table"]]) for r in part]

    def some(keep):
        pairs = [(r, s) for r, s in zip(part, scored, strict=True) if keep(r, s)]
        return [r for r, _ in pairs], [s for _, s in pairs]

    told = {"all": line("all", part, scored)}
    for fam in sorted({r["family"] for r in part}):
        line(f"  {fam}", *some(lambda r, s, f=fam: r["family"] == f))
    for verdict, wanted in (("trust", True), ("provisional", False)):
        told[verdict] = line(f"  {verdict}", *some(lambda r, s, w=wanted: s["trust"] == w))
        for band, (low, high) in BANDS.items():
            told[f"{verdict}, {band}"] = line(
                f"    {verdict}, {band}",
                *some(
                    lambda r, s, w=wanted, a=low, b=high: s["trust"] == w and a < r["beyond"] <= b
                ),
            )
    return told


def errors(rows: list[dict]) -> None:
    """Median and 90% quantile of the errors of ln N* and ln L*, 1 to 3 budgets left out, within 10x.

    The measurement's own error is part of them. Standard errors: tables drawn with replacement.
    """
    part = [r for r in rows if "params" in r and r["out"] <= 3 and r["beyond"] <= 10.1]
    names = sorted({r["table"] for r in part})
    generator = np.random.default_rng(0)
    draws = generator.integers(0, len(names), size=(2000, len(names)))
    for i, (name, label, unit) in enumerate(
        zip(QUANTITIES, ("ln N*", "ln L*"), (1, 100), strict=True)
    ):
        each = [[abs(r[name] - r["measured"][i]) for r in part if r["table"] == t] for t in names]
        text = f"error of {label}{' (%)' if unit > 1 else ''}:"
        for q, what in ((0.5, "median"), (0.9, "90% quantile")):
            value = np.quantile(np.concatenate(each), q)
            again = [np.quantile(np.concatenate([each[k] for k in d]), q) for d in draws]
            text += f" {what} {unit * value:.3f} ± {unit * np.std(again):.3f}"
        print(text)


def losses(rows: list[dict]) -> None:
    """Next-budget loss of any run: geometric mean over tables of the median relative error.

    Standard errors: of the mean over the tables.
    """
    for out in (1, 2, 3):
        text = f"loss of any run, {out} out:"
        for label, keep in (("Porian", True), ("others", False)):
            each: dict[str, list] = {}
            for r in rows:
                if r.get("out") == out and "runs" in r and (r["family"] == "porian") == keep:
                    each.setdefault(r["table"], []).append(r["runs"])
            if each:
                logs = [np.log(np.mean(v)) for v in each.values()]
                mean, count = 100 * np.exp(np.mean(logs)), len(logs)
                text += f" {label} {mean:.2f} ± {mean * np.std(logs, ddof=1) / np.sqrt(count):.2f}%"
        print(text)


def main() -> None:
    """Run, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="keep the rows here (JSON)")
    parser.add_argument("--from", dest="source", help="score the rows kept here")
    parser.add_argument("--most", type=int, default=6, help="budgets to leave out")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--write", action="store_true", help="renew prior.json and record.json")
    args = parser.parse_args()
    began = time.process_time()
    if args.source:
        kept = json.loads(Path(args.source).read_text())
    else:
        found = tables(Path(os.environ["FLOPS_FIT_PUBLISHED_RUNS"]))
        kept = {"whole": whole(found), "rows": []}
        for name, table in found.items():
            kept["rows"] += held_out(name, table, args.most, args.resamples)
            print(f"<!-- {name}: {time.process_time() - began:.0f} CPU-s -->", flush=True)
    if args.out:
        Path(args.out).write_text(json.dumps(kept, default=float))
    rows, shown = kept["rows"], kept["whole"]
    families = sorted({family(t) for t in shown})
    others = {t: prior_from(shown, set(families) - {family(t)}) for t in shown}
    halves = {}
    for t in shown:
        mine = families.index(family(t)) % 2
        halves[t] = prior_from(shown, {f for i, f in enumerate(families) if i % 2 != mine})
    told = {}
    for label, priors in (("prior of the other families", others), ("halves", halves)):
        print(f"\n{label}: 1 to 3 budgets left out, within 10x")
        told[label] = summary(rows, priors, (1, 2, 3), 10.1)
        print(f"{label}: 4 to 6 budgets left out")
        told[f"{label}, 4 to 6"] = summary(rows, priors, (4, 5, 6), np.inf)
    errors(rows)
    losses(rows)
    prior = prior_from(shown, set(families))
    print(f"prior, all families: {prior}; one left out: {others}")
    if args.write:
        write_json(
            PRIOR,
            {
                **prior,
                "df": PRIOR_DF,
                "families": families,
                "tables": sorted(shown),
                "command": f"{COMMAND} --write",
            },
        )
        write_json(
            RECORD,
            {
                "sweeps": len(shown),
                "families": len(families),
                "command": f"{COMMAND} --write",
                **told["prior of the other families"],
            },
        )
    print(json.dumps(told))


if __name__ == "__main__":
    main()
