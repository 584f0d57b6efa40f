#!/usr/bin/env bash
# tpu/watch.sh CONFIG WORKDIR [--config.KEY=VALUE ...]: repeats `tpu/run.sh`
# until the run is done or a restart cannot fix it. Creates the slice, and
# creates it again if it was taken away. If this script is started again, it
# joins the run in progress.

# shellcheck source=tpu/settings.sh
. "$(dirname "$0")/settings.sh"
# shellcheck source=tpu/gcloud.sh
. "$TPU/gcloud.sh"
# shellcheck source=tpu/workers.sh
. "$TPU/workers.sh"
# shellcheck source=tpu/runs.sh
. "$TPU/runs.sh"

: "${MAX_FAILURES:=5}"        # early ends in a row before giving up
: "${HEALTHY_SECONDS:=1800}"  # early: sooner than this after the start

# again_or_exit STATUS: pauses if trying again may help, otherwise exits.
again_or_exit() {
  [ "$1" = $AGAIN ] || exit "$1"
  sleep "$POLL_SECONDS"
}

make_slice() {
  until "$TPU/create.sh"; do
    again_or_exit $?
    # Only a dead slice is deleted: a network failure must not cost the place in
    # the queue.
    ! slice_is_dead || "$TPU/delete.sh" || again_or_exit $?
  done
}

# Joins the run in progress if it is this one on all workers; otherwise runs.
join_or_run() {
  local worker mine busy
  count_workers
  try_all on_worker report
  mine=$(command_digest siglip_jax.main)
  for ((worker = 0; worker < WORKERS; worker++)); do
    # 127: the worker has no code yet, so it has no run either.
    case $(code_of "$worker") in
      0) ;;
      127) : >"$SCRATCH/out.$worker" ;;
      *) blame "$worker" ;;
    esac
    read_report "$worker"
    case $STATE,$ARGUMENTS,$COMMAND in
      running,"$mine",* | running,*,siglip_jax.preflight*) ;;
      running,*) wrong "Another run is going on: $COMMAND. Run" \
        "tpu/stop.sh to end it first." ;;
    esac
  done
  busy=$(running)
  if [ "$busy" = "$WORKERS" ] && [ "$ARGUMENTS" = "$mine" ]; then
    say "Joining the run that is going on."
    (finish)
    return
  fi
  [ "$busy" = 0 ] || on_all on_worker stop "$STOP_SECONDS" unmarked
  # A worker may be a different machine than before, or have lost its mount.
  "$TPU/setup.sh" && run_all
}

current_state() {
  until state=$(node_state NONE); do
    again_or_exit $?
  done
}

export DRY_RUN
check_run "$0" "$@"
failures=0
current_state
while :; do
  if [ "$state" != READY ]; then
    note "$TPU_NAME is $state: making it."
    make_slice
  fi
  began=$SECONDS
  rm -f "$SCRATCH/ended"
  (join_or_run)
  code=$?
  [ $code != 0 ] || exit $DONE
  [ $code != $WRONG ] || exit $WRONG
  [ ! -f "$SCRATCH/stopped" ] || again "tpu/stop.sh ended the run." \
    "The same command goes on with it."
  current_state
  if [ "$code" = $AGAIN ] && [ ! -f "$SCRATCH/ended" ]; then
    say "The workers could not be asked. The run may be going on; trying again."
    sleep "$POLL_SECONDS"
  elif [ "$state" = READY ]; then
    [ $((SECONDS - began)) -lt "$HEALTHY_SECONDS" ] || failures=0
    failures=$((failures + 1))
    [ $failures -lt "$MAX_FAILURES" ] || die $code "The run ended early" \
      "$failures times in a row, each within $HEALTHY_SECONDS s, and the" \
      "slice is well. See tpu/logs.sh all."
    say "Ended with $code; starting the same command again."
    sleep "$POLL_SECONDS"
  fi
done
