#!/usr/bin/env bash
# Test on a Slurm cluster:
#     tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of test.py]
# GPUS, GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS say what to ask for.
set -euo pipefail

[ $# -ge 4 ] || { sed -n '3s/^# *//p' "$0" >&2; exit 2; }
partition=$1
job=$2
config=$3
checkpoint=$4
shift 4

# shellcheck disable=SC2086  # SRUN_ARGS is a list of options
srun -p "$partition" \
    --job-name="$job" \
    --gres=gpu:"${GPUS_PER_NODE:-4}" \
    --ntasks="${GPUS:-4}" \
    --ntasks-per-node="${GPUS_PER_NODE:-4}" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher slurm "$@"
