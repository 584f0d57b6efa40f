#!/usr/bin/env bash
# tpu/logs.sh [WORKER]: follows a worker's log until the run ends; default 0.
# tpu/logs.sh all: prints the last 20 lines of every worker's log.

# shellcheck source=tpu/settings.sh
. "$(dirname "$0")/settings.sh"
# shellcheck source=tpu/gcloud.sh
. "$TPU/gcloud.sh"
# shellcheck source=tpu/workers.sh
. "$TPU/workers.sh"

which=${1-0}
case $which in
  all)
    count_workers
    on_all on_worker last_lines 20
    [ "$DRY_RUN" = 0 ] || exit $DONE
    for ((worker = 0; worker < WORKERS; worker++)); do
      say "== worker $worker"
      cat "$SCRATCH/out.$worker"
    done
    ;;
  '' | *[!0-9]*)
    wrong "The worker must be a number from 0, or all; got '$which'." ;;
  *) on_worker "$which" follow +1 ;;
esac
