rule fit_law:
    input:
        runs=run_table,
        records=records,
    output:
        "results/{sweep}/fit.json",
    log:
        "results/{sweep}/logs/fit.log",
    conda:
        "../../envs/flops-fit.yaml"
    params:
        options=lambda wildcards: sweeps[wildcards.sweep].fit_options(),
        code=code_of("fit"),
        table=table_content,
    shell:
        "python -m flops_fit fit --runs {input.runs:q} --out {output} {params.options} > {log} 2>&1"
