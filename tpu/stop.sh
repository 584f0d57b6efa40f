#!/usr/bin/env bash
# tpu/stop.sh: ends the run; it saves first. The slice stays, and costs;
# tpu/delete.sh gives it back. tpu/run.sh with the same words goes on.

# shellcheck source=tpu/settings.sh
. "$(dirname "$0")/settings.sh"
# shellcheck source=tpu/gcloud.sh
. "$TPU/gcloud.sh"
# shellcheck source=tpu/workers.sh
. "$TPU/workers.sh"

: "${STOP_SECONDS:=600}" # then it is killed

count_workers
on_all on_worker stop "$STOP_SECONDS" marked
note "$TPU_NAME: nothing runs. It is still yours, and" \
  "costs: tpu/delete.sh gives it back."
