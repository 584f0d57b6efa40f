# shellcheck shell=bash
# Sourced by every script: reads and checks tpu/env.sh. Errors take one line.
#
# Exit codes are those of `python -m siglip_jax.main`: 0 done; 2 a restart
# cannot fix it; 75 the same command again may. Bash 3.2 is enough.

set -uo pipefail

# shellcheck disable=SC2034  # used by the scripts that source this file
readonly DONE=0 WRONG=2 AGAIN=75
TPU=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$TPU")
# shellcheck disable=SC2034
readonly TPU ROOT
: "${DRY_RUN:=0}"
: "${POLL_SECONDS:=30}"

# shellcheck source=tpu/chips.sh
. "$TPU/chips.sh"

# Messages printed inside $(...) go to the script's own stdout, through fd 3.
exec 3>&1

say() { printf '%s\n' "$*" >&3; }
# Prints a message, except in a dry run, which prints only commands.
note() { [ "$DRY_RUN" = 1 ] || say "$@"; }

# die STATUS MESSAGE...
die() {
  local status=$1
  shift
  printf 'error: %s\n' "$*" >&2
  exit "$status"
}

wrong() { die "$WRONG" "$@"; }
again() { die "$AGAIN" "$@"; }

# Quotes one word for a POSIX shell; plain words stay as they are.
quote() {
  local mark="'" escaped="'\\''"
  case $1 in
    '' | *[!A-Za-z0-9_./:=,@%+-]*)
      printf "'%s'" "${1//$mark/$escaped}" ;;
    *) printf %s "$1" ;;
  esac
}

# Prints its arguments as one line of shell, quoted where needed.
quoted() {
  local word first=1
  for word in "$@"; do
    [ "$first" = 1 ] || printf ' '
    first=0
    quote "$word"
  done
}

need() {
  [ -n "${!1-}" ] || wrong "$1 must be set; got an empty one." \
    "Set it in $ENV_FILE: $2."
}

one_of() {
  local name=$1 given=${!1} known
  shift
  for known in "$@"; do
    [ "$given" = "$known" ] && return
  done
  wrong "$name must be one of $*; got '$given'. Set it in $ENV_FILE."
}

check_settings() {
  local name
  for name in PROJECT ZONE TPU_NAME ACCELERATOR_TYPE RUNTIME_VERSION \
    PROVISIONING QUEUED VALID_UNTIL BUCKET DATA_DIR SERVICE_ACCOUNT NETWORK \
    SUBNETWORK INTERNAL_IP; do
    [ -n "${!name+set}" ] || wrong "$name is missing from $ENV_FILE. Take its" \
      "line from tpu/env.example.sh."
  done
  need PROJECT "gcloud projects list shows yours"
  need ZONE "gcloud compute tpus locations list shows them"
  need TPU_NAME "any name"
  need ACCELERATOR_TYPE "e.g. v4-8 for four v4 chips"
  one_of PROVISIONING on-demand spot reserved
  one_of QUEUED 0 1
  one_of INTERNAL_IP 0 1
  case $ACCELERATOR_TYPE in
    *-*[!0-9]* | *-) known=no ;;
    *) default_runtime >/dev/null && known=yes || known=no ;;
  esac
  [ "$known" = yes ] || wrong "ACCELERATOR_TYPE must be" \
    "$ACCELERATOR_PREFIXES and a number, as v4-8; got" \
    "'$ACCELERATOR_TYPE'. Set it in $ENV_FILE."
  case $BUCKET in
    gs://* | */*) wrong "BUCKET must be a bucket's name without gs:// or" \
      "folders; got '$BUCKET'. Set it in $ENV_FILE." ;;
  esac
  [ -n "$RUNTIME_VERSION" ] || RUNTIME_VERSION=$(default_runtime)
}

: "${TPU_ENV:=$TPU/env.sh}"
readonly ENV_FILE=$TPU_ENV
[ -f "$ENV_FILE" ] || wrong "The settings file $ENV_FILE is missing." \
  "Copy tpu/env.example.sh to tpu/env.sh and set PROJECT, ZONE and BUCKET."
# shellcheck source=tpu/env.example.sh
. "$ENV_FILE" || wrong "The settings file $ENV_FILE is not valid bash: above."
check_settings
