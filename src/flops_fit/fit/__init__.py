"""The fitter: from a table of runs to the best N and D for a budget, with intervals.

    from flops_fit.fit import fit_runs, predict, read_runs

    fit = fit_runs(read_runs("runs.csv"))     # a `Fit`
    answer = predict(fit, 1e21)               # an `Answer`, at 1e21 FLOPs
    answer.params, answer.ci["params"]        # N* and its interval

Attributes are named as the keys of the files: ``fit.to_dict()`` is the content of FIT.json, which
`read_fit` reads, and ``answer.to_dict()`` is what ``flops-fit predict --json`` prints. Where both
differ, the key is given in brackets. Schemas: docs/schemas/fit.schema.json and answer.schema.json.

FIT.json, every number finite (trust is carried by the statuses), N in parameters, D in tokens, C in
FLOPs, losses in the unit of the runs:

- ``format``: of the file; absent in files from before there was one.
- ``parametric`` (the classic surface L = E + A/N^alpha + B/D^beta, approach 3): ``E, A, B, alpha,
  beta``, ``a`` = beta / (alpha + beta) and ``b`` = 1 - a, ``objective`` (sum of Huber on ln L),
  ``n_runs`` used, ``status`` (converged, at_bound, not_identifiable), ``reason``; ``delta`` and
  ``scale`` (robust, of ln L), ``starts``, ``starts_spread`` (relative spread of their objectives),
  ``starts_at_minimum``, ``condition`` number, ``se_a`` (asymptotic), ``profile_E``: [[E, rise]].
- ``tied`` (alpha = beta) and, where asked for, ``fixed_e``: the same keys.
- ``stack`` (null where one estimator was asked for, or the runs allow none): ``members`` [{``name,
  weight_params, weight_loss, weight_runs`` (shares in N*, in L* and in the loss of any run),
  ``scale``}], ``tests`` {params, loss: [{``trained_up_to, flops, error, sd, se`` (ln), ``ahead``
  (budgets), ``distance`` (ln C), ``age``}]}, ``form_error`` {params, loss: {``tau`` at a doubling of
  C, ``df, tests``}} (null without resamples), ``noise`` (least scale of its members).
- ``axis`` (null where N and D vary apart): ``x`` (params, tokens, flops), ``missing``, ``range`` of
  x, ``params`` and ``tokens`` (means), ``E, A, alpha`` of L = E + A x^-alpha (null with fewer than 4
  values of x), ``level``, ``draws``.
- ``isoflop`` (approach 2): ``a``, ``status``, ``reason``, ``shared`` (whether runs share budgets),
  ``grouping`` (how these were recognised), ``loss_law`` {E, ln_K, gamma} of L* = E + K C^-gamma, and
  ``budgets``: [{``flops, params_opt, tokens_opt, loss_opt``, ``status`` (bracketed, at_edge,
  no_minimum, too_few_points), ``reason``, ``curvature``, ``coefficients`` [c0, c1, c2] and
  ``centre``: loss = c0 + c1 z + c2 z^2, z = ln N - centre; ``params_range`` [N low, N high],
  ``n_runs``, ``best_left_out``: {experiment_id, row, params, loss} of a run left out whose loss is
  below that of every run used, or null}]. Where a minimum is not bracketed the optimum given is the
  lowest run.
- ``envelope`` (approach 1, where there are loss curves): ``a, status, reason, loss_law, points``
  [[C, N, loss]].
- ``headline``: ``method`` (stack, unless asked otherwise), ``why`` [words], ``a``, ``slope``
  (d ln N*/d ln C at the largest C), ``reason``, ``candidates``, ``warnings`` (they forbid trust),
  ``notes`` (they do not).
- ``status`` of the headline: converged, at_bound, bracketed or not_identifiable.
- ``ci_noise`` and ``ci``: key -> [low, high] for E, A, B, alpha, beta, a, b and stack.a, isoflop.a,
  envelope.a, tied.a. No measurement shows a parameter of a formula, so here both are resampling
  noise; for N*, D* and the losses `predict` gives a ``ci`` that covers the error of the form too.
- ``delta``; ``bootstrap``: ``resamples, unit, seed, level, se`` (standard errors of E, ln_A, ln_B,
  alpha, beta, a), ``stack`` (resamples that each member was refitted on), ``usable`` resamples per
  estimator, ``seed_noise`` {sd, df} or null.
- ``excluded``: ``rule, count, by_reason, runs`` [{experiment_id, row, reason}], ``with_them``
  (the surface with the automatic exclusions put back: {E, alpha, beta, a, params_at_largest,
  params_at_largest_without}) or null.
- ``heldout``: what each single estimator predicts for the largest budgets, fitted without them:
  ``levels`` [{left_out, trained_up_to, n_runs, predictions: [{estimator, flops, params,
  params_measured, loss, loss_measured, excess, loss_error}]}], ``levels_scored`` (where all
  estimators could be compared), ``score`` per estimator.
- ``cost``: ``factor, params, per_token`` [flops_per_token], ``origin`` [words] of C = f(N) D.
- ``sizes``: [{size, params, params_matmul, params_nonembedding, params_total, flops_per_token}], as
  far as known (``params``: as fitted).
- ``data``: ``source, params_column`` (the column that was N), ``reading`` (the other choices on how
  the table was read, `rows.Reading`), ``n_runs``, ranges [low, high] of
  ``params, tokens, flops, loss``, ``budgets, largest_budget, seeds, most_epochs`` (passes over the
  data of one run; null if unknown), ``loss_unit, notes``.
- ``table``: ``columns`` {params, tokens, flops, loss, seed, budget: [...]}, the runs as fitted, and
  ``sha256`` of them.
- ``repeats`` (absent unless enough runs repeat their data): ``form`` (none, exponential, hyperbolic),
  ``R`` (passes that all repeats are worth) and ``R_ci``, ``forms`` [{form, error, R}] with the error of
  ln L on runs left out, ``n_repeated``, ``most_epochs``, ``law`` [E, ln A, ln B, alpha, beta, R] and
  ``draws`` of it.
- ``accuracy`` (absent unless asked for): ``name`` of its column, ``chance`` as stated or null,
  ``n_runs``, ``losses`` and ``values`` [low, high] of these, ``law`` [low, high, middle, width] of
  low + (high - low) / (1 + exp((L - middle) / width)) (null with a ``reason``), ``draws`` of it, and
  ``scatter`` of a run in units of sqrt(a (1 - a)).
- ``sensitivity``: ``rows`` [{``group`` (`sensitivity.GROUPS`), ``label, headline`` (this is the
  fit's choice), ``method, status, reason, n_runs, a, count`` (the column that N is), ``law,
  cost``}], each to be evaluated at any C by `sensitivity_at`, and ``notes``; null if not asked for.
- ``laws``: estimator -> ``law`` and ``draws`` (null without resamples), each {columns, values}, or
  {members, weights} for the stack: what `predict` evaluates.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Answer": "answer",
    "Fit": "result",
    "FitOptions": "options",
    "Reading": "rows",
    "RunTable": "runs",
    "Size": "sizes",
    "ask": "questions",
    "fit_runs": "core",
    "loss_at": "prediction",
    "losses_at": "prediction",
    "optimum_at": "prediction",
    "predict": "prediction",
    "prepare_runs": "runs",
    "read_curves": "curves",
    "read_fit": "result",
    "read_runs": "runs",
    "sensitivity_at": "sensitivity",
    "spread_of": "sensitivity",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import on first use: ``--help`` must not wait for NumPy and SciPy."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
