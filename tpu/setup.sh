#!/usr/bin/env bash
# tpu/setup.sh: sets up the code, Python, the pinned packages, the bucket and
# the run's environment on every worker. If run again, it does only what is
# missing.

# shellcheck source=tpu/settings.sh
. "$(dirname "$0")/settings.sh"
# shellcheck source=tpu/gcloud.sh
. "$TPU/gcloud.sh"
# shellcheck source=tpu/workers.sh
. "$TPU/workers.sh"

count_workers
sync_code
on_all on_worker install
if [ -n "$BUCKET" ]; then
  on_all on_worker mount_bucket "$BUCKET"
fi
on_all on_worker environment "$DATA_DIR" ${WORKER_ENV[@]+"${WORKER_ENV[@]}"}
note "$TPU_NAME: $WORKERS worker(s) set up." \
  "Next: tpu/run.sh CONFIG WORKDIR"
