# shellcheck shell=bash
# Sourced after workers.sh: runs a command on all workers, from start to end.

: "${STOP_SECONDS:=600}" # time limit for saving a checkpoint

# check_run SCRIPT CONFIG WORKDIR ARGUMENTS...: checks all that can be checked
# from this machine. Leaves the run's arguments in RUN_ARGUMENTS.
check_run() {
  local script=$1 config=${2-} workdir=${3-} file
  [ $# -ge 3 ] || wrong "Both a config and a workdir are needed:" \
    "$script configs/NAME.py[:arg=value,...] bucket/runs/NAME" \
    "[--config.KEY=VALUE ...]"
  shift 3
  file=${config%%:*}
  [ -f "$ROOT/$file" ] || wrong "The config must be a file of this" \
    "checkout, named from its top as in configs/b16_4k.py; got '$file'."
  ! git -C "$ROOT" check-ignore -q "$file" || wrong "The config '$file'" \
    "is one that git ignores, and the workers get what git sees."
  case $workdir in
    /?*) ;;
    bucket/?*) need BUCKET "its name, as the workdir is to be in it" ;;
    *) wrong "The workdir must be bucket/FOLDER, in the bucket that the" \
      "workers mount, or an absolute path on them; got '$workdir'." ;;
  esac
  RUN_ARGUMENTS=("--config=$config" "--workdir=$workdir" "$@")
}

# command_digest MODULE: prints what identifies `python -m MODULE ARGUMENTS` on
# the workers.
command_digest() {
  printf '%s\0' "$1" "${RUN_ARGUMENTS[@]}" | digest
}

# start_all MODULE: starts it on all workers, with RUN_ARGUMENTS.
start_all() {
  on_all on_worker start "$1" ${RUN_ARGUMENTS[@]+"${RUN_ARGUMENTS[@]}"}
}

# read_report WORKER: sets STATE CODE STOPPED ARGUMENTS COMMAND from its report.
read_report() {
  if [ "$DRY_RUN" = 1 ]; then
    STATE=ended CODE=0 STOPPED=- ARGUMENTS=- COMMAND=
  else
    # shellcheck disable=SC2034  # used by the scripts that source this file
    read -r STATE CODE STOPPED ARGUMENTS COMMAND <"$SCRATCH/out.$1"
  fi
}

# Prints how many workers are running, by their answers to on_all or try_all.
running() {
  local worker found=0
  for ((worker = 0; worker < WORKERS; worker++)); do
    read_report "$worker"
    [ "$STATE" != running ] || found=$((found + 1))
  done
  echo "$found"
}

# Asks all workers for their reports. A laptop that wakes up has no network at
# first, so this tries again, unless the slice is known to be gone.
ask_all() {
  local tries state
  for ((tries = 1; tries < 5; tries++)); do
    (on_all on_worker report) 2>"$SCRATCH/asked" && return
    state=$(node_state READY 2>/dev/null) && [ "$state" != READY ] && break
    sleep "$POLL_SECONDS"
  done
  on_all on_worker report
}

# Prints worker 0's log until its run ends, even if connections are lost.
attend() {
  local lines=+1
  trap 'say "The run goes on. tpu/logs.sh follows it, tpu/stop.sh ends it."
    exit 130' INT
  while :; do
    on_worker 0 follow "$lines" 2>"$SCRATCH/follow"
    ask_all
    read_report 0
    [ "$STATE" = running ] || break
    say "The connection to worker 0 was lost; the run goes on."
    lines=20
    sleep "$POLL_SECONDS"
  done
  trap - INT
}

# Waits for all workers to end. The others end soon after worker 0: together
# with it, or by their own time limit. After STOP_SECONDS they are stopped.
let_all_end() {
  local waited=0
  while [ "$(running)" != 0 ]; do
    if [ "$waited" -ge "$STOP_SECONDS" ]; then
      say "Some workers run on after worker 0 has ended; they are stopped."
      on_all on_worker stop 30 unmarked
    fi
    sleep "$POLL_SECONDS"
    waited=$((waited + ${POLL_SECONDS%.*} + 1))
    ask_all
  done
}

# Waits for the run, prints how each failed worker ended, and returns the run's
# code: 2 if any worker gave 2, else any unforeseen code, else 75 or 0.
finish() {
  local worker result=$DONE
  attend
  let_all_end
  : >"$SCRATCH/ended"
  for ((worker = 0; worker < WORKERS; worker++)); do
    read_report "$worker"
    [ "$STOPPED" != stopped ] || : >"$SCRATCH/stopped"
    case $STATE,$CODE in
      ended,0) continue ;;
      ended,2) result=$WRONG ;;
      ended,75 | ended,1[2-9]? | lost,*) [ "$result" != 0 ] || result=$AGAIN ;;
      *) [ "$result" = "$WRONG" ] || result=$CODE ;;
    esac
    CODES="${CODES-} $worker:$STATE,$CODE"
  done
  [ "$result" = 0 ] || tell_failures
  return "$result"
}

# Prints one line for each worker that failed, with the last line of its log.
tell_failures() {
  local entry worker how
  try_all on_worker last_lines 5
  for entry in $CODES; do
    worker=${entry%%:*} how=${entry#*:}
    case $how in
      lost,*) how="ended without a code, as when a machine restarts" ;;
      *) how="ended with ${how#*,}" ;;
    esac
    echo "Worker $worker $how: $(last_words "$worker")" >&2
  done
}

# Runs preflight, then the run itself. The code must be on the workers already.
run_all() {
  start_all siglip_jax.preflight
  (finish) || return
  note "Preflight passed on $WORKERS worker(s)."
  start_all siglip_jax.main
  (finish)
}
