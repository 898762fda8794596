rule compare_confirmation:
    input:
        records="results/{sweep}/results.json",
    output:
        json="results/{sweep}/confirmation.json",
        table=report(
            "results/{sweep}/confirmation.md",
            caption="../report/confirmation.rst",
            category="Answer",
            labels={"answer": "confirmation"},
        ),
    log:
        "results/{sweep}/logs/confirmation.log",
    localrule: True
    conda:
        "../../envs/flops-fit.yaml"
    params:
        predicted=lambda wildcards: sweeps[wildcards.sweep].predicted(),
        code=code_of("confirmed"),
    shell:
        "python -m flops_fit confirmed --records {input.records:q} --predicted {params.predicted:q}"
        " --name {wildcards.sweep} --out {output.json} --table {output.table} > {log} 2>&1"
