rule plan:
    input:
        plan_tables,
    localrule: True


# Outside of `snakemake plan`, which prepares nothing, the data are counted first: the plan then knows
# the number of passes over them.
rule plan_sweep:
    input:
        ancient(counted_data),
    output:
        csv=report(
            "results/{sweep}/plan.csv",
            caption="../report/plan.rst",
            category="Plan",
            labels={"plan": "table of experiments"},
        ),
        html=report(
            "results/{sweep}/plan.html",
            caption="../report/plan.rst",
            category="Plan",
            labels={"plan": "cost and warnings"},
        ),
        svg=report(
            "results/{sweep}/plan.svg",
            caption="../report/plan.rst",
            category="Plan",
            labels={"plan": "grid"},
        ),
        summary="results/{sweep}/plan.txt",
    log:
        "results/{sweep}/logs/plan.log",
    localrule: True
    conda:
        "../../envs/flops-fit.yaml"
    params:
        content=plan_content,
        options=plan_options,
        code=code_of("plan"),
    shell:
        "python -m flops_fit plan --plan results/.plan/sweeps/{wildcards.sweep}.json"
        " --name {wildcards.sweep} --out {output.csv} --page {output.html} --figure {output.svg}"
        " --summary {output.summary} {params.options} > {log} 2>&1"
