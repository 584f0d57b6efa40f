#!/usr/bin/env bash
# tpu/delete.sh: deletes the slice and its request in the queue. The workers'
# own disks are deleted too; the bucket is not touched.

# shellcheck source=tpu/settings.sh
. "$(dirname "$0")/settings.sh"
# shellcheck source=tpu/gcloud.sh
. "$TPU/gcloud.sh"

# remove KIND NAME FLAG...: deletes it; succeeds if it no longer exists.
remove() {
  local kind=$1
  shift
  tpus "$kind" delete "$@" --quiet 2>"$SCRATCH/delete" && return
  grep -q NOT_FOUND "$SCRATCH/delete" || explain "$SCRATCH/delete"
}

# A dry run assumes that the slice made by tpu/create.sh exists.
[ "$QUEUED" = 1 ] && made=ACTIVE alone=NONE || made=NONE alone=READY

queued=$(queue_state "$made") || exit
if [ "$queued" != NONE ]; then
  # --force deletes the request's machines too.
  remove queued-resources "$QUEUE" --force
fi
state=$(node_state "$alone") || exit
if [ "$state" != NONE ]; then
  remove tpu-vm "$TPU_NAME"
fi
note "$TPU_NAME: deleted."
