rule prepare_data:
    output:
        "results/data/{data}/manifest.json",
        packed=only_in_store("results/data/{data}.zip"),
    log:
        "results/data/logs/{data}.log",
    conda:
        "../../envs/flops-fit.yaml"
    shell:
        "python -m flops_fit prepare --plan results/.plan/data/{wildcards.data}.json --pack {output.packed:q}"
        " > {log} 2>&1"


rule check_inputs:
    input:
        ancient(prepared_data),
    output:
        "results/.plan/checked/{check}.json",
    log:
        "results/.plan/checked/{check}.log",
    conda:
        "../../envs/flops-fit.yaml"
    # exec, as for runs: the server forks for processes with the same environment alone.
    shell:
        "exec python -m flops_fit check --plan results/.plan/checks/{wildcards.check}.json > {log} 2>&1"
