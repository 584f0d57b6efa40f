#!/usr/bin/env bash
# tpu/create.sh: creates the slice described in tpu/env.sh, or waits for it in
# the queue. If run again, it continues waiting. A ready slice stays as it is.

# shellcheck source=tpu/settings.sh
. "$(dirname "$0")/settings.sh"
# shellcheck source=tpu/gcloud.sh
. "$TPU/gcloud.sh"

# Prints the arguments that both kinds of request share, one per line.
shared_arguments() {
  echo "--accelerator-type=$ACCELERATOR_TYPE"
  case $PROVISIONING in
    spot) echo --spot ;;
    reserved) echo --reserved ;;
  esac
  [ -z "$NETWORK" ] || echo "--network=$NETWORK"
  [ -z "$SUBNETWORK" ] || echo "--subnetwork=$SUBNETWORK"
  [ "$INTERNAL_IP" = 0 ] || echo --internal-ips
  [ -z "$SERVICE_ACCOUNT" ] || echo "--service-account=$SERVICE_ACCOUNT"
  echo --scopes=https://www.googleapis.com/auth/cloud-platform
}

# ask KIND NAME ARGUMENTS...: requests the slice.
ask() {
  local kind=$1 line
  shift
  while IFS= read -r line; do
    set -- "$@" "$line"
  done < <(shared_arguments)
  tpus "$kind" create "$@" 2>"$SCRATCH/create" || explain "$SCRATCH/create"
}

ask_directly() {
  ask tpu-vm "$TPU_NAME" "--version=$RUNTIME_VERSION"
}

ask_queue() {
  set -- "$QUEUE" "--node-id=$TPU_NAME" "--runtime-version=$RUNTIME_VERSION"
  [ -z "$VALID_UNTIL" ] || set -- "$@" "--valid-until-duration=$VALID_UNTIL"
  ask queued-resources "$@"
}

# Prints every change of the request's state, and returns once it is filled.
wait_in_queue() {
  local state last=''
  while state=$(queue_state ACTIVE) || exit; do
    [ "$state" = "$last" ] || note "$QUEUE: $state"
    last=$state
    case $state in
      ACTIVE) return ;;
      CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING) ;;
      *) again "The request $QUEUE is $state: it ended before a slice was" \
        "free, or the slice was taken back. Run tpu/delete.sh, then" \
        "tpu/create.sh." ;;
    esac
    sleep "$POLL_SECONDS"
  done
}

wait_until_ready() {
  local state
  while state=$(node_state READY) || exit; do
    case $state in
      READY) break ;;
      CREATING | STARTING | RESTARTING | REPAIRING) ;;
      *) again "$TPU_NAME is $state, and cannot get ready from that. Run" \
        "tpu/delete.sh, then tpu/create.sh." ;;
    esac
    sleep "$POLL_SECONDS"
  done
  note "$TPU_NAME: READY. Next: tpu/setup.sh"
}

state=$(node_state NONE) || exit
if [ "$state" = NONE ] && [ "$QUEUED" = 1 ]; then
  queued=$(queue_state NONE) || exit
  if [ "$queued" = NONE ]; then
    ask_queue
  fi
  wait_in_queue
elif [ "$state" = NONE ]; then
  ask_directly
fi
wait_until_ready
