#!/usr/bin/env bash
# Train on a Slurm cluster:
#     tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of train.py]
# GPUS, GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS say what to ask for.
set -euo pipefail

[ $# -ge 3 ] || { sed -n '3s/^# *//p' "$0" >&2; exit 2; }
partition=$1
job=$2
config=$3
shift 3

# shellcheck disable=SC2086  # SRUN_ARGS is a list of options
srun -p "$partition" \
    --job-name="$job" \
    --gres=gpu:"${GPUS_PER_NODE:-4}" \
    --ntasks="${GPUS:-4}" \
    --ntasks-per-node="${GPUS_PER_NODE:-4}" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/train.py" "$config" --launcher slurm "$@"
