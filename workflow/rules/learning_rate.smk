# Arms of a comparison tune no rate, so there is one sweep here.
(tuned,) = (sweep for sweep in sweeps.values() if sweep.tunes_rate)


def rules_beside(wildcards, output):
    """The options of `flops-fit rate` for the other rules that the sweep fits."""
    files = ((name.replace("_", "-"), output[name]) for name in tuned.tuned_beside)
    return " ".join(f"--{name}-out {quote(file)}" for name, file in files)


rule fit_learning_rate:
    input:
        runs=run_table,
    output:
        rule=report(
            "results/{sweep}/learning_rate.json",
            caption="../report/learning_rate.rst",
            category="Answer",
            labels={"answer": "rule for the learning rate"},
        ),
        figure=report(
            "results/{sweep}/plots/learning_rate.svg",
            caption="../report/learning_rate.rst",
            category="Figures",
            labels={"figure": "learning rate"},
        ),
        png="results/{sweep}/plots/learning_rate.png",
        csv="results/{sweep}/plots/learning_rate.csv",
        summary="results/{sweep}/learning_rate.txt",
        **{name: f"results/{{sweep}}/{name}.json" for name in tuned.tuned_beside},
    log:
        "results/{sweep}/logs/learning_rate.log",
    conda:
        "../../envs/flops-fit.yaml"
    params:
        options=lambda wildcards: sweeps[wildcards.sweep].plot_options(),
        beside=rules_beside,
        code=code_of("rate"),
    shell:
        "python -m flops_fit rate --runs {input.runs:q} --out {output.rule}"
        " --out-dir results/{wildcards.sweep}/plots --summary {output.summary} {params.options}"
        " {params.beside}"
        " > {log} 2>&1"
