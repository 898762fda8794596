#!/bin/bash
# Snakemake itself as one long, small job, where no program may stay on the login node. In the clone, with
# the environment active:
#   sbatch profiles/slurm/sweep.sh my_sweep.yaml
# Options of Snakemake may follow. Jobs of this name run one after the other, so submit it several times
# where the sweep takes longer than --time: each goes on where the one before it stopped.
#SBATCH --job-name=flops-fit
#SBATCH --dependency=singleton
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=1-00:00:00
#SBATCH --output=flops-fit-%j.log
# As Ctrl-C, to Snakemake alone, two minutes before the end: it cancels its jobs, which save.
#SBATCH --signal=B:INT@120
if [[ ${SLURM_RESTART_COUNT:-0} -gt 0 ]]; then # started anew after its node was lost, with its lock
    snakemake --unlock --configfile "$@"
fi
exec snakemake --profile profiles/slurm --configfile "$@"
