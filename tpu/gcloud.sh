# shellcheck shell=bash
# Sourced after settings.sh: runs gcloud, explains its failures, and tells which
# resources exist.

SCRATCH=$(mktemp -d)
readonly SCRATCH QUEUE=$TPU_NAME-queue
trap 'rm -rf "$SCRATCH"' EXIT

[ "$DRY_RUN" = 1 ] || command -v gcloud >/dev/null || wrong \
  "gcloud is not on the PATH. Install the Google Cloud CLI, then run" \
  "'gcloud auth login'."

# Runs gcloud; a dry run prints the command instead.
call() {
  if [ "$DRY_RUN" = 1 ]; then
    say "$(quoted gcloud "$@")"
  else
    gcloud "$@"
  fi
}

tpus() {
  local kind=$1 verb=$2
  shift 2
  call compute tpus "$kind" "$verb" "$@" --project="$PROJECT" --zone="$ZONE"
}

# explain FILE: dies with an explanation of gcloud's error output in FILE.
explain() {
  local said
  said=$(grep '^ERROR' "$1" | tail -n 1)
  [ -n "$said" ] || said=$(tail -n 1 "$1")
  case $(cat "$1") in
    *UNAVAILABLE* | *DEADLINE_EXCEEDED* | *"Max retries"* | *"timed out"* | \
      *onnection*Error* | *"Unable to find the server"* | *unreachable*)
      again "Google Cloud did not answer. Try again. ($said)" ;;
    *"active account"* | *"auth login"* | *"auth tokens"* | *eauthenticat*)
      wrong "gcloud is not logged in. Run 'gcloud auth login'. ($said)" ;;
    *"per minute"* | *ate*imit*xceeded* | *RATE_LIMIT* | *INTERNAL* | \
      *"nternal error"* | *"Error 50"[0-9]* | *backendError*)
      again "Google Cloud is overloaded, or failed inside. Try again." \
        "($said)" ;;
    *[Qq]uota*)
      wrong "The quota of project $PROJECT in $ZONE does not cover" \
        "a $PROVISIONING $ACCELERATOR_TYPE. Ask for more under IAM > Quotas," \
        "or change ZONE, PROVISIONING or ACCELERATOR_TYPE. ($said)" ;;
    *"no more capacity"* | *"not enough resources"* | *STOCKOUT*)
      again "$ZONE has no free $ACCELERATOR_TYPE now. Try again later," \
        "or set QUEUED=1 to wait in the queue. ($said)" ;;
    *SERVICE_DISABLED* | *"has not been used in project"*)
      wrong "The TPU API is off in project $PROJECT. Run 'gcloud services" \
        "enable tpu.googleapis.com --project=$PROJECT'. ($said)" ;;
    *PERMISSION_DENIED* | *ermission*denied*)
      wrong "Your account may not do this in project $PROJECT, or that" \
        "project does not exist. It needs the role TPU Admin. ($said)" ;;
    *) wrong "gcloud failed: $said" ;;
  esac
}

# described ASSUMED KIND NAME FORMAT: prints FORMAT of a resource, or NONE if it
# does not exist. A dry run prints ASSUMED.
described() {
  local assumed=$1 kind=$2 name=$3 format=$4 found
  if [ "$DRY_RUN" = 1 ]; then
    tpus "$kind" describe "$name" "--format=$format"
    echo "$assumed"
  elif found=$(tpus "$kind" describe "$name" "--format=$format" \
    2>"$SCRATCH/described"); then
    echo "${found:-NONE}"
  elif grep -q NOT_FOUND "$SCRATCH/described"; then
    echo NONE
  else
    explain "$SCRATCH/described"
  fi
}

# Prints READY, CREATING, REPAIRING, PREEMPTED ... or NONE.
node_state() { described "$1" tpu-vm "$TPU_NAME" 'value(state)'; }

# Prints WAITING_FOR_RESOURCES, PROVISIONING, ACTIVE, FAILED, SUSPENDED ... or
# NONE.
queue_state() {
  described "$1" queued-resources "$QUEUE" 'value(state.state)'
}

# Whether the slice or its request can never become ready. False if the state
# cannot be read.
slice_is_dead() {
  local node queue
  node=$(node_state NONE) && queue=$(queue_state NONE) || return 1
  case $node in
    READY | CREATING | STARTING | RESTARTING | REPAIRING) return 1 ;;
    NONE) ;;
    *) return 0 ;;
  esac
  case $queue in
    NONE | CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING) return 1 ;;
  esac
}

worker_count() {
  # A dry run cannot ask, so it assumes the usual number.
  described "$(usual_workers "${ACCELERATOR_TYPE##*-}")" tpu-vm "$TPU_NAME" \
    'value(networkEndpoints.len())'
}
