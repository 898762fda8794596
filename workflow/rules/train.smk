rule train_run:
    input:
        ancient(checked),
    output:
        "results/runs/{id}/result.json",
    log:
        "results/runs/{id}/train.log",
    benchmark:
        "results/runs/{id}/benchmark.tsv"
    priority: longest_first
    conda:
        "../../envs/flops-fit.yaml"
    threads: sweep.config["resources"]["processes"] * sweep.config["resources"]["threads"]
    resources:
        processes=sweep.config["resources"]["processes"],
        omp=sweep.config["resources"]["threads"],
        devices=gpus_per_run(),
        gpu=0 if set_resource(TRAIN_RUN, "gres") else gpus_per_run(),  # SLURM accepts only one of the two
        runtime=minutes,
        mem_mb=megabytes,
    params:
        spec="results/.plan/specs/{id}.json",
    # exec leaves no shell: a signal to the job would end the shell before the trainer has saved.
    shell:
        "exec python -m flops_fit train --spec {params.spec} --out {output}"
        " --processes {resources.processes} --gpus {resources.devices} --threads {resources.omp}"
        " > {log} 2>&1"
