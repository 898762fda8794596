rule collect_runs:
    input:
        runs=run_results,
    output:
        json="results/{sweep}/results.json",
        csv=report(
            "results/{sweep}/results.csv",
            caption="../report/runs.rst",
            category="Runs",
            labels={"runs": "table of runs"},
        ),
    log:
        "results/{sweep}/logs/collect.log",
    localrule: True
    conda:
        "../../envs/flops-fit.yaml"
    params:
        content=plan_content,
        code=code_of("collect"),
        failed=failed_runs,
    shell:
        "python -m flops_fit collect --plan results/.plan/sweeps/{wildcards.sweep}.json"
        " --json {output.json} --csv {output.csv} --failed {params.failed} > {log} 2>&1"
