#!/bin/bash
# Train on the machines of a Slurm job: starts torchrun once on each of them, and nothing else.
#
#   sbatch --nodes 8 --gpus-per-node 8 --exclusive --cpus-per-task 64 \
#     launch/slurm.sh stages.distillation.distill --student ...
#
# Or write it into params.yaml, and dvc repro and the flow train on the cluster:
#
#   launch:
#     command: [sbatch, --wait, --nodes, "8", --gpus-per-node, "8", --exclusive, --cpus-per-task, "64",
#               launch/slurm.sh]
#
# Ask for cores: a task, which is all the processes of a node, has one otherwise. --cpus-per-task is
# those of a node; --cpus-per-gpu 8 does as well, and --exclusive leaves the node to this job.
#
# launch.max_restarts is not read here: the number of restarts is --max-restarts below.
#
# The repository lies on a disk that all nodes see, and python is the environment's. Before the time
# limit Slurm asks for a stop: a checkpoint is written, and the same command goes on.
#
#SBATCH --job-name=distil
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --output=slurm-%j.log
set -euo pipefail

# All of them are read: a pipe that is closed after the first would end scontrol, and this with it.
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")

# Since Slurm 22.05 srun does not take this from the job by itself.
exec srun ${SLURM_CPUS_PER_TASK:+--cpus-per-task "$SLURM_CPUS_PER_TASK"} \
  python -m stages.training.torchrun \
  --nnodes "$SLURM_JOB_NUM_NODES" \
  --nproc-per-node "${PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}" \
  --rdzv-backend c10d \
  --rdzv-id "$SLURM_JOB_ID" \
  --rdzv-endpoint "${nodes[0]}:${RENDEZVOUS_PORT:-29500}" \
  --max-restarts 3 \
  -m "$@"
