#!/usr/bin/env bash
# tpu/status.sh: prints the state of the slice, and for each worker the state of
# the run, its exit code, the code's digest, the free disk space and the last
# line of the log.

# shellcheck source=tpu/settings.sh
. "$(dirname "$0")/settings.sh"
# shellcheck source=tpu/gcloud.sh
. "$TPU/gcloud.sh"
# shellcheck source=tpu/workers.sh
. "$TPU/workers.sh"

# describe_worker N: prints worker N's answer to try_all, or why it has none.
describe_worker() {
  case $(code_of "$1") in
    0) cat "$SCRATCH/out.$1" ;;
    127) echo "not set up: run tpu/setup.sh" ;;
    *) echo "cannot be reached: $(last_words "$1")" ;;
  esac
}

state=$(node_state READY) || exit
queued=-
if [ "$QUEUED" = 1 ]; then
  queued=$(queue_state ACTIVE) || exit
fi
note "$TPU_NAME: $state, queue: $queued," \
  "$PROVISIONING $ACCELERATOR_TYPE in $ZONE"
[ "$state" = READY ] || exit $DONE
count_workers
try_all on_worker summary
[ "$DRY_RUN" = 0 ] || exit $DONE
for ((worker = 0; worker < WORKERS; worker++)); do
  say "worker $worker: $(describe_worker "$worker")"
done
