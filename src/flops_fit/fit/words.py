"""The answer of `predict` in words: for a terminal, and about a point off the optimum."""

from flops_fit.constants import MOST_EPOCHS

NEAR = 8.0  # factor in N off the optimum up to which a parabola means something


def own_words(own: dict, answer: dict, fit: dict) -> list[str]:
    """What to make of a point off the optimum, a sentence each."""
    words = []
    if own["asked"] == "tokens" and own["epochs"] <= 1:
        words.append("there are enough tokens: the optimum reads each at most once")
    elif own["asked"] == "tokens":
        passes = (
            f"the optimum would read {own['unique_tokens']:.4g} tokens {own['epochs']:.3g} times"
        )
        words.append(
            f"{passes}; up to {MOST_EPOCHS:g} passes are nearly as good as fresh data "
            "(Muennighoff et al. 2023), so its N and loss stand"
            if own["epochs"] <= MOST_EPOCHS
            else f"{passes}, and beyond {MOST_EPOCHS:g} passes repeated data lose their value "
            "(Muennighoff et al. 2023): its loss is then out of reach"
        )
        words.append("the numbers here are for reading every token once, with a larger model")
    factor = own["params"] / answer["params"]
    low, high = fit["data"]["params"]
    if not low <= own["params"] <= high:
        words.append(
            f"N = {own['params']:.4g} lies outside the sizes tried, {low:.4g} to {high:.4g}"
        )
    if (
        answer["method"] not in ("stack", "surface", "tied", "fixed_e")
        and not 1 / NEAR < factor < NEAR
    ):
        words.append(
            f"{factor:.3g} times N* is too far for the parabola behind {answer['method']}; its loss "
            "and waste are no more than an order of magnitude"
        )
    return words


def describe(answer: dict, fit: dict) -> str:
    """The ``answer`` that `predict` gave for ``fit``, as a few readable lines for a terminal."""
    if answer["verdict"] == "not identifiable":
        return "\n".join(_unanswered(answer, fit))
    ci, noise, unit = answer["ci"], answer["ci_noise"], fit["data"]["loss_unit"]
    level = f"{100 * fit['bootstrap']['level']:.0f}%"

    def line(label: str, name: str, form: str = ".4g") -> str:
        text = f"  {label:<22}{answer[name]:{form}}"
        if name in ci:
            text += f"   {level} interval {ci[name][0]:{form}} to {ci[name][1]:{form}}"
            if noise[name] != ci[name]:
                text += f"   (noise alone {noise[name][0]:{form}} to {noise[name][1]:{form}})"
        return text

    good = answer["range_1pct"], answer["range_5pct"]
    lines = [
        f"C = {answer['flops']:.4g} FLOPs, by {answer['method']}: {answer['verdict']}",
        line("parameters N*", "params"),
        line("tokens D*", "tokens"),
        line("tokens per parameter", "tokens_per_param", ".3g"),
        line(f"loss ({unit})", "loss", ".4f"),
        f"  N within 1% of compute {good[0][0]:.4g} to {good[0][1]:.4g}",
        f"  N within 5% of compute {good[1][0]:.4g} to {good[1][1]:.4g}",
    ]
    if answer["promise"] is not None:
        lines.append(f"  at most 5% wasted     with a probability of {answer['promise']:.0%}")
    if len(answer["estimators"]) > 1:
        each = ", ".join(f"{name} {value:.4g}" for name, value in answer["estimators"].items())
        lines.append(f"  N* by estimator       {each}")
    if answer["size_value"] is not None:
        lines.append(f"  buildable size value  {answer['size_value']}")
    told = ", ".join(f"N* x {r['factor']:g}: {waste_text(r['waste'])}" for r in answer["regret"])
    lines.append(f"  compute wasted at     {told}")
    lines.append(f"  C / largest budget    {answer['beyond_data']:.3g}")
    lines += [f"  - {reason}" for reason in answer["reasons"]]
    if answer["config"]:
        lines += ["in a config:", *(f"  {line}" for line in answer["config"].splitlines())]
    if answer["own"]:
        lines += _describe_own(answer, unit)
    return "\n".join(lines)


def _unanswered(answer: dict, fit: dict) -> list[str]:
    """The lines of an answer without numbers, and of the one axis that the runs support."""
    lines = [
        f"C = {answer['flops']:.4g} FLOPs: not identifiable",
        *(f"  - {reason}" for reason in answer["reasons"]),
    ]
    axis = answer["axis"]
    if not axis or axis["E"] is None:
        return lines
    symbol = {"params": "N", "tokens": "D", "flops": "C"}[axis["x"]]
    lines += [
        "what these runs do support, along their one axis:",
        f"  L = {axis['E']:.4f} + {axis['A']:.4g} / {symbol}^{axis['alpha']:.3f}",
        f"  loss ({fit['data']['loss_unit']})".ljust(24) + f"{axis['loss']:.4f} at {symbol} = "
        f"{axis['at']:.4g}: {axis['verdict']}",
    ]
    if axis["ci"]:
        level = f"{100 * fit['bootstrap']['level']:.0f}%"
        lines[-1] += f"   {level} interval {axis['ci'][0]:.4f} to {axis['ci'][1]:.4f} (noise alone)"
    return lines


def waste_text(waste: float | None) -> str:
    """Extra compute as a percentage: +14%; no end of it where no compute is enough."""
    if waste is None:
        return "no compute is enough"
    return f"+{100 * waste:.3g}%" if waste < 10 else f"x {1 + waste:.3g}"


def _describe_own(answer: dict, unit: str) -> list[str]:
    own = answer["own"]
    asked = own["params"] if own["asked"] == "params" else own["unique_tokens"]
    return [
        f"at your own {'N' if own['asked'] == 'params' else 'D of at most'} = {asked:.4g}, same C:",
        f"  parameters N          {own['params']:.4g}   ({own['params'] / answer['params']:.3g} x N*)",
        f"  tokens D              {own['tokens']:.4g}",
        f"  tokens per parameter  {own['tokens_per_param']:.3g}",
        f"  loss ({unit})".ljust(24) + f"{own['loss']:.4f}   ({own['loss'] - answer['loss']:+.4f})",
        f"  compute wasted        {waste_text(own['waste'])} for the optimum's loss",
        *(f"  - {word}" for word in own["words"]),
    ]
