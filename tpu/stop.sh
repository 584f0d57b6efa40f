#!/usr/bin/env bash
# tpu/stop.sh: saves and ends the run. The slice stays and still costs money;
# tpu/delete.sh deletes it. tpu/run.sh with the same arguments resumes the run.

# shellcheck source=tpu/settings.sh
. "$(dirname "$0")/settings.sh"
# shellcheck source=tpu/gcloud.sh
. "$TPU/gcloud.sh"
# shellcheck source=tpu/workers.sh
. "$TPU/workers.sh"

: "${STOP_SECONDS:=600}" # time limit for saving; then the run is killed

count_workers
on_all on_worker stop "$STOP_SECONDS" marked
note "$TPU_NAME: nothing runs. It is still yours, and" \
  "costs: tpu/delete.sh gives it back."
