rule train_run:
    input:
        ancient(checked),
        before=ancient(before_on_trunk),
    output:
        "results/runs/{id}/result.json",
    log:
        "results/runs/{id}/train.log",
    benchmark:
        "results/runs/{id}/benchmark.tsv"
    priority: longest_first
    conda:
        "../../envs/flops-fit.yaml"
    threads: threads_per_run
    resources:
        processes=processes,
        omp=threads_per_process,
        devices=gpus_per_run,
        gpu=gpu_resource,
        runtime=minutes,
        mem_mb=megabytes,
        requeued=requeued_at_limit,
    params:
        spec="results/.plan/specs/{id}.json",
    # exec leaves no shell: a signal to the job would end the shell before the trainer has saved.
    shell:
        "exec python -m flops_fit train --spec {params.spec} --out {output}"
        " --processes {resources.processes} --gpus {resources.devices} --threads {resources.omp}"
        " --requeue {resources.requeued} --after {input.before}"
        " > {log} 2>&1"
