#!/usr/bin/env bash
# tpu/delete.sh: gives the slice and its place in the queue back. What is on
# the workers' own disks is gone; the bucket is not touched.

# shellcheck source=tpu/settings.sh
. "$(dirname "$0")/settings.sh"
# shellcheck source=tpu/gcloud.sh
. "$TPU/gcloud.sh"

# remove KIND NAME FLAG...: that it went away by itself meanwhile is fine.
remove() {
  local kind=$1
  shift
  tpus "$kind" delete "$@" --quiet 2>"$SCRATCH/delete" && return
  grep -q NOT_FOUND "$SCRATCH/delete" || explain "$SCRATCH/delete"
}

# What a dry run supposes: the slice that tpu/create.sh made.
[ "$QUEUED" = 1 ] && made=ACTIVE alone=NONE || made=NONE alone=READY

queued=$(queue_state "$made") || exit
if [ "$queued" != NONE ]; then
  # --force takes its machines along.
  remove queued-resources "$QUEUE" --force
fi
state=$(node_state "$alone") || exit
if [ "$state" != NONE ]; then
  remove tpu-vm "$TPU_NAME"
fi
note "$TPU_NAME: deleted."
