#!/usr/bin/env bash
# Runs on a worker, in the home of the user who logs in; the other scripts call
# it. A run's state is kept in files, so it outlives every connection.

set -uo pipefail

readonly CODE=$HOME/siglip_jax RUN=$HOME/siglip_jax_run
readonly VENV=$HOME/siglip_jax_venv ENVIRONMENT=$HOME/siglip_jax_env.sh
readonly BUCKET_DIR=$HOME/bucket UV=uv==0.13.8
readonly AGAIN=75
: "${POLL_SECONDS:=1}"

# wrong: an error that the same command would give again. again: an error that
# may go away.
wrong() { printf 'error: %s\n' "$*" >&2 && exit 2; }
again() { printf 'error: %s\n' "$*" >&2 && exit "$AGAIN"; }

# unpack DIGEST: replaces the code by ~/siglip_jax.tar.gz, whole or not at all.
unpack() {
  local found
  found=$(sha256sum "$HOME/siglip_jax.tar.gz" | cut -c 1-64)
  [ "$found" = "$1" ] || again "The code arrived damaged: its digest" \
    "must be $1, but is $found. Send it again."
  [ "$(state)" != running ] || wrong "A run is going on here, from the" \
    "code that would be replaced. Run tpu/stop.sh first."
  replace_code "$1" || again "The code could not be unpacked. Is the disk" \
    "full? See df -h."
}

replace_code() {
  rm -rf "$CODE.new" && mkdir "$CODE.new" &&
    tar -C "$CODE.new" -xzf "$HOME/siglip_jax.tar.gz" &&
    ln -s "$BUCKET_DIR" "$CODE.new/bucket" && echo "$1" >"$CODE.new/.digest" &&
    rm -rf "$CODE" && mv "$CODE.new" "$CODE"
}

# Prints a digest of what an installation depends on.
wanted() { cat "$CODE/setup.py" "$CODE/tpu/constraints.txt" | sha256sum; }

# install: installs Python and the pinned packages, once per list of packages.
#
# The images bring Python 3.10. uv fetches another one without root. apt would
# wait for the upgrades that a new machine does first, and Ubuntu 22.04's own
# 3.11 is a release candidate.
install() {
  [ "$(wanted)" != "$(cat "$VENV/installed" 2>/dev/null)" ] || return 0
  rm -rf "$VENV"
  install_packages || again "The packages could not be installed: see above." \
    "Run tpu/setup.sh again."
  wanted >"$VENV/installed"
}

install_packages() {
  local uv=$HOME/.local/bin/uv
  PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install -q --user "$UV" &&
    "$uv" venv -q --python 3.11 "$VENV" &&
    VIRTUAL_ENV=$VENV "$uv" pip install -q --constraint \
      "$CODE/tpu/constraints.txt" --editable "${CODE}[tpu]"
}

# mount_bucket BUCKET: mounts it at ~/bucket.
mount_bucket() {
  mountpoint -q "$BUCKET_DIR" && return
  command -v gcsfuse >/dev/null || install_gcsfuse || again "gcsfuse could" \
    "not be installed: see above. Run tpu/setup.sh again."
  mkdir -p "$BUCKET_DIR"
  # A checkpoint is completed by renaming its folder. A bucket without a
  # hierarchical namespace renames file by file, and gcsfuse does that only if
  # this limit is set.
  gcsfuse --implicit-dirs --rename-dir-limit=100000 "$1" "$BUCKET_DIR" ||
    wrong "The bucket $1 could not be mounted. It must exist, and the" \
      "workers' account needs the role Storage Object User on it."
}

install_gcsfuse() {
  local key=/usr/share/keyrings/cloud.google.asc
  local packages=https://packages.cloud.google.com/apt name
  name=gcsfuse-$(lsb_release -cs)
  curl -fsS "$packages/doc/apt-key.gpg" | sudo tee "$key" >/dev/null &&
    echo "deb [signed-by=$key] $packages $name main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null &&
    sudo apt-get -qq -o DPkg::Lock::Timeout=600 update &&
    sudo apt-get -qq -o DPkg::Lock::Timeout=600 install gcsfuse >/dev/null
}

# environment DATA_DIR NAME=value...: sets the environment of every run here.
environment() {
  local data=$1 pair
  shift
  case $data in /*) ;; *) data=$HOME/$data ;; esac
  for pair in "TFDS_DATA_DIR=$data" "$@"; do
    [[ $pair =~ ^[A-Za-z_][A-Za-z_0-9]*= ]] || wrong "WORKER_ENV must" \
      "hold NAME=value pairs; got '$pair'. Set it in tpu/env.sh."
    printf 'export %q\n' "$pair"
  done >"$ENVIRONMENT"
}

# Whether the keeper is alive. Its process id may belong to another process now,
# so the command line is checked too.
kept() {
  [ -f "$RUN/keeper" ] || return
  case $(ps -o stat=,args= -p "$(cat "$RUN/keeper")") in
    Z*) return 1 ;;
    *"worker.sh keep "*) return 0 ;;
    *) return 1 ;;
  esac
}

# Prints the run's state: none, running, ended, or lost, which means that it
# ended without an exit code, as when the machine was restarted.
state() {
  if [ ! -f "$RUN/command" ]; then
    echo none
  elif [ -f "$RUN/code" ]; then
    echo ended
  elif kept; then
    echo running
  else
    echo lost
  fi
}

# start MODULE ARGUMENTS...: starts `python -m MODULE ARGUMENTS`, detached.
start() {
  [ "$(state)" != running ] || wrong "A run is going on already:" \
    "$(cat "$RUN/command"). Run tpu/stop.sh first."
  [ -f "$VENV/installed" ] && [ "$(wanted)" = "$(cat "$VENV/installed")" ] ||
    wrong "This worker is not set up for this code. Run tpu/setup.sh."
  mkdir -p "$RUN"
  rm -f "$RUN/code" "$RUN/stopped" "$RUN/keeper" "$RUN/python"
  printf '%q ' "$@" >"$RUN/command"
  printf '%s\0' "$@" | sha256sum | cut -c 1-64 >"$RUN/arguments"
  RUN_LOG=$RUN/log-$(date -u +%Y%m%d-%H%M%S)-$1
  : >"$RUN_LOG"
  ln -sf "$RUN_LOG" "$RUN/log"
  # In a session of its own, the run does not get this connection's hang-up.
  setsid bash "$0" keep "$@" </dev/null >>"$RUN_LOG" 2>&1 &
  echo $! >"$RUN/keeper"
  await_python || again "Python was not started: see df -h and the log."
}

# Waits until Python has started. Before that, the keeper could look dead.
await_python() {
  local tries
  for ((tries = 0; tries < 600; tries++)); do
    [ ! -f "$RUN/python" ] || return 0
    sleep 0.05
  done
  return 1
}

# keep MODULE ARGUMENTS...: runs Python, waits for it and writes its exit code.
keep() {
  local python
  cd "$CODE" || exit
  # shellcheck disable=SC1090
  [ ! -f "$ENVIRONMENT" ] || . "$ENVIRONMENT"
  PYTHONUNBUFFERED=1 "$VENV/bin/python" -m "$@" &
  python=$!
  echo "$python" >"$RUN/python"
  wait "$python"
  # Write to another file first, so that a half-written code is never read.
  echo $? >"$RUN/code.new" && mv "$RUN/code.new" "$RUN/code"
}

# report: prints one line for the scripts: STATE CODE STOPPED ARGUMENTS COMMAND.
report() {
  local now code=- stopped=- arguments=-
  now=$(state)
  [ "$now" != ended ] || code=$(cat "$RUN/code")
  [ ! -f "$RUN/stopped" ] || stopped=stopped
  [ "$now" = none ] || arguments=$(cat "$RUN/arguments")
  echo "$now $code $stopped $arguments $(cat "$RUN/command" 2>/dev/null)"
}

# follow LINES: prints the log from `tail -n LINES` on until the run ends; exits
# with the run's code.
follow() {
  [ "$(state)" != none ] || wrong "Nothing was started on this worker."
  if kept; then
    tail -n "$1" -s "$POLL_SECONDS" -F "$RUN/log" \
      --pid="$(cat "$RUN/keeper")" 2>/dev/null
  else
    tail -n "$1" "$RUN/log"
  fi
  [ "$(state)" = ended ] || exit $AGAIN
  exit "$(cat "$RUN/code")"
}

# last_lines LINES: prints the end of the log.
last_lines() { [ ! -e "$RUN/log" ] || tail -n "$1" "$RUN/log"; }

# stop SECONDS MARK: sends TERM, on which the run saves; after SECONDS, KILL.
# Unless MARK is `unmarked`, notes that the user stopped the run.
stop() {
  local left=$1
  [ "$(state)" = running ] || return 0
  [ "$2" = unmarked ] || touch "$RUN/stopped"
  kill -TERM "$(cat "$RUN/python")" 2>/dev/null
  while [ "$(state)" = running ] && [ "$left" -gt 0 ]; do
    sleep 1
    left=$((left - 1))
  done
  [ "$(state)" = running ] || return 0
  kill -KILL -- "-$(cat "$RUN/keeper")" 2>/dev/null
  echo 137 >"$RUN/code"
}

# summary: prints the line that status.sh shows for this worker.
summary() {
  local free
  free=$(df -h --output=avail "$HOME" | tail -n 1 | tr -d ' ')
  echo "$(report | cut -d ' ' -f 1,2) code $(cut -c 1-12 "$CODE/.digest")" \
    "disk $free | $(last_lines 1)"
}

case ${1-} in
  unpack | install | environment | start | keep | report | follow | stop | \
    summary | mount_bucket | last_lines) "$@" ;;
  *) wrong "tpu/worker.sh is called by the other scripts of tpu/." ;;
esac
