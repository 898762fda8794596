localrules:
    plan_sweep,


rule plan_sweep:
    output:
        "results/{sweep}/plan.csv",
    log:
        "results/{sweep}/logs/plan.log",
    conda:
        "../../envs/flops-fit.yaml"
    params:
        content=plan_content,
    shell:
        "python -m flops_fit plan --plan results/.plan/sweeps/{wildcards.sweep}.json"
        " --out {output} >{log} 2>&1"
