#!/usr/bin/env bash
# tpu/run.sh CONFIG WORKDIR [--config.KEY=VALUE ...]: trains on all workers, or
# resumes, and follows worker 0. The run outlives this script: interrupt it and
# `tpu/logs.sh` follows on. Exits as the run did: 0 done, 2 a restart cannot
# mend it, 75 the same command goes on.

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
