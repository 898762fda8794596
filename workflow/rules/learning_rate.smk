rule fit_learning_rate:
    input:
        runs=run_table,
    output:
        **{name: f"results/{{sweep}}/{name}.json" for name in study.tuned_beside},
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
    log:
        "results/{sweep}/logs/learning_rate.log",
    conda:
        "../../envs/flops-fit.yaml"
    params:
        options=lambda wildcards: sweeps[wildcards.sweep].plot_options(),
        beside=rules_beside_rate,
        code=code_of("rate"),
    shell:
        "python -m flops_fit rate --runs {input.runs:q} --out {output.rule}"
        " --out-dir results/{wildcards.sweep}/plots --summary {output.summary} {params.options}"
        " {params.beside}"
        " > {log} 2>&1"
