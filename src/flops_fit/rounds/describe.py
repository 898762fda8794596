"""The outcome of a simulated sweep as text for a terminal."""

import numpy as np

from flops_fit.notation import count_text, flops_text


def describe_simulation(outcome: dict) -> str:
    """The ``outcome`` of `simulate` as text for a terminal."""
    design, law, noise, target = (outcome[key] for key in ("design", "law", "noise", "target"))
    sd = (
        f"{100 * noise['sd']:.2g}% of the loss"
        if noise["unit"] != "nats"
        else (f"{noise['sd']:.3g} nats")
    )
    level = f"{100 * outcome['level']:.0f}%"
    lines = [
        f"{design['runs']} runs at {len(design['budgets'])} budgets, "
        f"{flops_text(design['flops'])} FLOPs, simulated {outcome['times']} times",
        f"law:   L = {law['E']:.4g} + {law['A']:.4g} / N^{law['alpha']:.3f} + {law['B']:.4g} / "
        f"D^{law['beta']:.3f}, {law['source']}",
        f"noise: sd {sd} between runs ({noise['source']})",
        f"asked: {flops_text(target['flops'])} FLOPs; the true values are "
        f"N* {count_text(target['params'])}, D* {count_text(target['tokens'])}, "
        f"loss {target['loss']:.4f}",
        "",
        f"{'estimator':<11}{'':<6}{'bias':>9}{level + ' interval':>14}{'coverage':>14}"
        f"{'true spread':>13}",
    ]
    for name, values in outcome["estimators"].items():
        if "a" not in values:
            lines.append(f"{name:<11}never identified")
            continue
        for label, key in (("a", "a"), ("N*", "params"), ("loss", "loss")):
            q = values[key]
            bias, width, spread = (
                _wide(q[part], key, part) for part in ("bias", "width", "spread")
            )
            lines.append(
                f"{name if key == 'a' else '':<11}{label:<6}{bias:>9}{width:>14}"
                f"{q['coverage']:>14.0%}{spread:>13}"
            )
        if values["usable"] < 1:
            lines.append(
                f"{'':<11}(of the {values['usable']:.0%} of simulations in which it is identifiable)"
            )
    lines.append("(intervals and spread: high - low for a and loss, high / low for N*)")
    if outcome["minima"]:
        each = ", ".join(
            f"{flops_text(m['flops'])} {m['bracketed']:.0%}" for m in outcome["minima"]
        )
        lines += ["", f"minima bracketed: {each}; all at once {outcome['all_bracketed']:.0%}"]
    whole = outcome["whole_fits"]
    if whole:
        verdicts, headlines, reasons = (
            ", ".join(f"{name} {share:.0%}" for name, share in whole[key].items())
            for key in ("verdicts", "headlines", "reasons")
        )
        width = whole["params"]["width"]
        wide = "" if width is None else f"; N* x{np.exp(width):.2f}"
        lines.append(
            f"expected verdict: {verdicts} (from {whole['count']} complete fits; headline "
            f"{headlines}{wide})"
        )
        lines += [f"  reasons: {reasons}"] if reasons else []
    return "\n".join(lines)


def _wide(value: float, key: str, part: str) -> str:
    if key != "params":
        return f"{value:+.4f}" if part == "bias" else f"{value:.4f}"
    return f"{100 * np.expm1(value):+.1f}%" if part == "bias" else f"x{np.exp(value):.2f}"
