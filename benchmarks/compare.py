"""How often a comparison of two sweeps is right, on simulated pairs.

    python benchmarks/compare.py [--seconds 600] [--pairing | --form FOLDER]

Both arms have the design of the standard sweep (docs/standard/results.csv: 5 budgets, 5 sizes, 2
seeds) and a known law; the candidate is worth M times the compute at the middle budget, with the
exponents of the reference or with others. Each pair is fitted and compared as `flops-fit compare` does.
Printed: how often the nominal 90% interval of M holds the truth at the largest budget and at 10 times
it, and how often the noise alone would have; how often the verdict at the largest budget is better or
worse; and how often the shared model has most weight, each with its standard error. Sets of pairs are
simulated until ``--seconds`` of processor time are used.

``--pairing`` measures instead what resampling runs together with their counterparts changes, where
half of the variance of a run is common to both arms. ``--form`` measures how much of the error of the
form two like arms share (`flops_fit.comparison.models.LIKE`), on the tables of Porian et al. (2024) in
that folder.
"""

import argparse
import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd

from flops_fit.comparison.judge import judge
from flops_fit.comparison.models import SHARED, matched_tests, models_of
from flops_fit.comparison.multiplier import Frontier, Pair
from flops_fit.comparison.pairs import Arm, joint_draws
from flops_fit.fit.chain import FADE
from flops_fit.fit.core import fit_runs
from flops_fit.fit.cost import Cost
from flops_fit.fit.form_error import growth
from flops_fit.fit.laws import BentLaw, SurfaceLaw
from flops_fit.fit.runs import read_runs
from flops_fit.rounds.truth import default_law

DESIGN = Path(__file__).parents[1] / "docs" / "standard" / "results.csv"
LEVEL, BEYOND = 0.90, 10.0
RESAMPLES = 300
NOISES = (0.003, 0.01)


@dataclass(frozen=True)
class Kind:
    """A kind of candidate.

    ``gain``: M at the middle budget; ``steeper``: added to alpha and beta; ``power``: that L - E is of
    the two terms, in both arms; ``luck``: of a seed, in units of the noise of a run; ``missing``: share
    of its runs that the candidate lacks; ``seed``: its first.
    """

    gain: float
    steeper: float = 0.0
    power: float = 1.0
    luck: float = 0.0
    missing: float = 0.0
    seed: int = 0


KINDS = {
    "M = 1": Kind(1.0),
    "M = 1.15": Kind(1.15),
    "M = 1.3": Kind(1.3),
    "M = 1.15, exponents + 0.01": Kind(1.15, steeper=0.01),
    "M = 1.15, exponents + 0.03": Kind(1.15, steeper=0.03),
    "a crossing, exponents + 0.03": Kind(1.0, steeper=0.03),
    "M = 1.15, a fifth of the runs missing": Kind(1.15, missing=0.2),
    "M = 1.15, a power of 0.7": Kind(1.15, power=0.7),
    "M = 1.15, exponents + 0.03, a power of 0.7": Kind(1.15, steeper=0.03, power=0.7),
    "M = 1, luck of seeds, the same in both arms": Kind(1.0, luck=1.0),
    "M = 1, luck of seeds, other seeds": Kind(1.0, luck=1.0, seed=2),
}
PORIAN = (
    "porian_owt2_tuned",
    "porian_owt2_base_long_kaplan",
    "porian_rw_base_short_kaplan",
    "porian_rw_base_long_kaplan_kaplan",
)


def design() -> pd.DataFrame:
    """N, D, C, budget, size and seed of the standard sweep, with C = 6 N D."""
    frame = pd.read_csv(DESIGN)[["params", "budget", "size", "seed"]]
    frame["flops"] = frame["budget"]
    frame["tokens"] = frame["flops"] / (6 * frame["params"])
    return frame


def candidate_law(law: SurfaceLaw, frame: pd.DataFrame, gain: float, steeper: float) -> SurfaceLaw:
    """The law whose M is ``gain`` at the middle budget, and everywhere where ``steeper`` is 0."""
    e, ln_a, ln_b, alpha, beta, *power = law.values[0]
    middle = float(np.log(frame["budget"].median()))
    log_n = float(law.optimum(middle, Cost())[0][0])
    log_d = float(Cost().log_tokens(log_n, middle))
    half = np.log(gain) / 2
    ln_a = ln_a - alpha * half + steeper * log_n
    ln_b = ln_b - beta * half + steeper * log_d
    return type(law)(np.array([[e, ln_a, ln_b, alpha + steeper, beta + steeper, *power]]))


def bent(law: SurfaceLaw, power: float) -> SurfaceLaw:
    """``law`` with L - E to the ``power``, which no surface of the shared model follows."""
    return law if power == 1 else BentLaw(np.append(law.values[0], [power, 0.0])[None])


def arm(name: str, frame: pd.DataFrame, law: SurfaceLaw, luck: np.ndarray) -> Arm:
    """One arm: its runs, with ``luck`` (n,) added to ln L, and its fit.

    One resample is enough there: those of the comparison are drawn for both arms together.
    """
    points = zip(np.log(frame["params"]), np.log(frame["tokens"]), strict=True)
    loss = np.array([law.loss(n, d)[0] for n, d in points]) * np.exp(luck)
    fit = fit_runs(frame.assign(loss=loss), bootstrap=1, sensitivity=False)
    return Arm.of(name, fit)


def outcome(arms: tuple[Arm, Arm], truth: Pair, top: float, paired: bool = True) -> dict:
    """What the comparison of ``arms`` says at ``top`` = C and at 10 times it, against the ``truth``."""
    log_c = np.log([top, BEYOND * top])
    draws = joint_draws(*arms, RESAMPLES, np.random.default_rng(0), paired)
    models = models_of(*arms, draws)
    judged, true = judge(models, arms, log_c), truth.log_multiplier(log_c)
    ends, top = judged.ends(LEVEL), judged.beliefs[0]
    inside = (ends[:, 0] <= true) & (true <= ends[:, 1])
    error = float(judged.answer[0] - true[0])
    verdict = top.verdict()
    return {
        "covered": bool(inside[0]),
        "covered at 10x": bool(inside[1]),
        "covered by noise": abs(error) <= 1.645 * top.noise,
        "better": verdict == "better",
        "worse": verdict == "worse",
        "shared": models.scores.name == SHARED,
        "noise": top.noise,
        "half": float(np.diff(ends[0])[0] / 2),
        "half at 10x": float(np.diff(ends[1])[0] / 2),
        "error": error,
    }


def table(rows: dict[str, list[dict]]) -> str:
    """Shares in percent with their standard errors, and medians, as a Markdown table."""
    shares = ["covered", "covered at 10x", "covered by noise", "better", "worse", "shared"]
    lines = [
        f"| pairs | number | {' | '.join(shares)} | half width | half width at 10x | rms error |",
        "|---|---|" + "---|" * (len(shares) + 3),
    ]
    for name, outcomes in rows.items():
        frame, cells = pd.DataFrame(outcomes), []
        for share in shares:
            p, n = float(frame[share].mean()), len(frame)
            cells.append(f"{100 * p:.0f} ± {100 * np.sqrt(p * (1 - p) / n):.0f}%")
        cells += [f"{100 * frame[key].median():.1f}%" for key in ("half", "half at 10x")]
        cells.append(f"{100 * np.sqrt((frame['error'] ** 2).mean()):.1f}%")
        lines.append(f"| {name} | {len(frame)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def pairs_of(
    frame: pd.DataFrame, law: SurfaceLaw, generator: np.random.Generator, rows: dict
) -> None:
    """One pair of every kind at each noise, added to ``rows``; each has a reference of its own."""
    top, n = float(frame["budget"].max()), len(frame)
    for noise, (name, kind) in itertools.product(NOISES, KINDS.items()):
        base = bent(law, kind.power)
        other = candidate_law(base, frame, kind.gain, kind.steeper)
        luck = noise * kind.luck * generator.standard_normal(kind.seed + 2)  # of seeds 0, 1, ...
        kept = generator.random(n) >= kind.missing
        part = frame[kept].assign(seed=frame["seed"] + kind.seed).reset_index(drop=True)
        shifts = [
            noise * generator.standard_normal(len(each)) + luck[each["seed"]]
            for each in (frame, part)
        ]
        arms = arm("reference", frame, base, shifts[0]), arm("candidate", part, other, shifts[1])
        truth = Pair(Frontier(base, None, Cost()), Frontier(other, None, Cost()))
        key = f"{name}, noise {100 * noise:g}%"
        rows.setdefault(key, []).append(outcome(arms, truth, top))


def form_of(folder: Path) -> None:
    """Print, for every pair of sweeps, the share of squared errors that is left in their difference.

    The stated noise of both sides is taken off, down to 0.
    """
    arms, left, whole = [], 0.0, 0.0
    for name in PORIAN:
        fit = fit_runs(read_runs(folder / f"{name}.csv"), bootstrap=60, sensitivity=False)
        arms.append(Arm.of(name, fit))
    for one, other in itertools.combinations(arms, 2):
        tests = matched_tests(one, other)
        error = np.array([[r.error, c.error] for r, c in tests])
        noise = np.array([r.sd**2 + r.se**2 + c.sd**2 + c.se**2 for r, c in tests])
        weight = np.array([FADE**r.age / r.ahead / growth(r.distance) ** 2 for r, _ in tests])
        squares = (error[:, 0] - error[:, 1]) ** 2, (error**2).sum(axis=1)
        parts = [max(float(weight @ (each - noise)), 0.0) for each in squares]
        left, whole = left + parts[0], whole + parts[1]
        share = f"{parts[0] / parts[1]:.2f}" if parts[1] else "none of either"
        print(f"{one.name} and {other.name}: {share} of {len(tests)} tests")
    print(f"all: {left / whole:.2f}")


def pairing_of(
    frame: pd.DataFrame, law: SurfaceLaw, generator: np.random.Generator, rows: dict
) -> None:
    """One pair whose runs share half of their variance, resampled together and apart."""
    top, n, noise = float(frame["budget"].max()), len(frame), NOISES[0]
    other = candidate_law(law, frame, 1.15, 0.0)
    common, *alone = noise * np.sqrt(0.5) * generator.standard_normal((3, n))
    arms = (
        arm("reference", frame, law, common + alone[0]),
        arm("candidate", frame, other, common + alone[1]),
    )
    truth = Pair(Frontier(law, None, Cost()), Frontier(other, None, Cost()))
    for name, paired in (("together", True), ("apart", False)):
        rows.setdefault(name, []).append(outcome(arms, truth, top, paired))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairing", action="store_true")
    parser.add_argument("--form", type=Path)
    args = parser.parse_args()
    if args.form:
        form_of(args.form)
        return
    generator, frame = np.random.default_rng(args.seed), design()
    law, rows = default_law(frame)[0], {}
    one = pairing_of if args.pairing else pairs_of
    while time.process_time() < args.seconds:
        one(frame, law, generator, rows)
        print(f"{time.process_time():.0f} s of processor time\n{table(rows)}", flush=True)
    if args.pairing:
        each = {k: float(np.mean([r["noise"] for r in v])) for k, v in rows.items()}
        print("stated noise of ln M:", ", ".join(f"{k} {v:.4f}" for k, v in each.items()))


if __name__ == "__main__":
    main()
