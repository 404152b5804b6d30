#!/bin/bash
# Any number of machines under SLURM: one task on each, in which Accelerate starts a process for each GPU.
#   sbatch --nodes 8 examples/accelerate/slurm.sh pretrain wav2vec2_large --train_data my_audio --output_dir runs/large
# Five minutes before the time is over every process gets SIGTERM, and the run saves a checkpoint; the job is queued
# again, and the same command goes on. Without GPUs: PRECISION=no, and one process on each machine.
#SBATCH --job-name=hf-ssl-speech
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
if [ $# = 0 ]; then
    echo "Give a command of hf-ssl-speech with its arguments: sbatch slurm.sh pretrain CONFIG ..." >&2
    exit 2
fi
: "${SLURM_JOB_NODELIST:?this script is for sbatch, which sets SLURM_JOB_NODELIST}"

MACHINES=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
FIRST_MACHINE=${MACHINES%%$'\n'*} # a pipe to `head` would end scontrol by SIGPIPE, and with it this script
PORT=${PORT:-$((10000 + SLURM_JOB_ID % 20000))} # jobs that share a machine need different ones
PROCESSES=$((SLURM_NNODES * ${SLURM_GPUS_ON_NODE:-1}))
PRECISION=${PRECISION:-bf16}
export FIRST_MACHINE PORT PROCESSES PRECISION

# SLURM_NODEID is known in the tasks only. A task that fails ends the others, which would wait for it.
srun --kill-on-bad-exit=1 bash -c '
    exec accelerate launch --multi_gpu --num_machines "$SLURM_NNODES" --num_processes "$PROCESSES" \
        --machine_rank "$SLURM_NODEID" --main_process_ip "$FIRST_MACHINE" --main_process_port "$PORT" \
        --rdzv_backend static --mixed_precision "$PRECISION" --dynamo_backend no \
        --module hf_ssl_speech.commands "$@"' task "$@"
