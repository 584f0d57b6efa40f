#!/usr/bin/env bash
# tpu/run.sh CONFIG WORKDIR [--config.KEY=VALUE ...]: starts or resumes training
# on all workers, and follows worker 0's log. The run outlives this script: if
# you interrupt it, `tpu/logs.sh` follows the log again. Exits with the run's
# code: 0 done, 2 a restart cannot fix it, 75 the same command continues.

# shellcheck source=tpu/settings.sh
. "$(dirname "$0")/settings.sh"
# shellcheck source=tpu/gcloud.sh
. "$TPU/gcloud.sh"
# shellcheck source=tpu/workers.sh
. "$TPU/workers.sh"
# shellcheck source=tpu/runs.sh
. "$TPU/runs.sh"

check_run "$0" "$@"
count_workers
sync_code
run_all
