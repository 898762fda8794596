rule write_report:
    input:
        runs=run_table,
        records=records,
        fit="results/{sweep}/fit.json",
        figures=[f"results/{{sweep}}/plots/{figure}.svg" for figure in FIGURES],
        confirmed=confirmations,
    output:
        html=report(
            "results/{sweep}/report.html",
            caption="../report/answer.rst",
            category="Answer",
            labels={"answer": "page"},
        ),
        table=report(
            "results/{sweep}/table.md",
            caption="../report/answer.rst",
            category="Answer",
            labels={"answer": "tables as text"},
        ),
        tex="results/{sweep}/table.tex",
        summary="results/{sweep}/answer.txt",
    log:
        "results/{sweep}/logs/report.log",
    conda:
        "../../envs/flops-fit.yaml"
    params:
        questions=lambda wildcards: sweeps[wildcards.sweep].answer_options(),
        code=code_of("report"),
        optional=optional_tables,
    shell:
        "python -m flops_fit report --runs {input.runs:q} {params.optional} --fit {input.fit}"
        " --plots results/{wildcards.sweep}/plots --name {wildcards.sweep} {params.questions}"
        " --out {output.html} --table {output.table} --tex {output.tex} --summary {output.summary} > {log} 2>&1"
