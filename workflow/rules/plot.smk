rule plot_law:
    input:
        runs=run_table,
        records=records,
        fit="results/{sweep}/fit.json",
    output:
        svg=[
            report(
                f"results/{{sweep}}/plots/{figure}.svg",
                caption=f"../report/{figure}.rst",
                category="Figures",
                labels={"figure": figure.replace("_", " ")},
            )
            for figure in FIGURES
        ],
        other=[
            f"results/{{sweep}}/plots/{figure}.{kind}"
            for figure in FIGURES
            for kind in ("png", "csv")
        ],
    log:
        "results/{sweep}/logs/plot.log",
    conda:
        "../../envs/flops-fit.yaml"
    params:
        options=lambda wildcards: sweeps[wildcards.sweep].plot_options(),
        budgets=lambda wildcards: sweeps[wildcards.sweep].budget_options(),
        code=code_of("plot"),
        records=optional_records,
    shell:
        "python -m flops_fit plot --runs {input.runs:q} {params.records} --fit {input.fit}"
        " --out-dir results/{wildcards.sweep}/plots {params.options} {params.budgets} > {log} 2>&1"
