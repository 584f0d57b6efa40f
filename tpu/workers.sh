# shellcheck shell=bash
# Sourced after gcloud.sh: runs commands on all workers of the slice at once.
#
# Each worker gets a gcloud process of its own, and so its own output, its own
# exit code and, when it cannot be reached, its own name in the message.

# ssh gives up on a machine that is gone, instead of hanging.
SSH_OPTIONS="-oConnectTimeout=20 -oServerAliveInterval=15"
SSH_OPTIONS="$SSH_OPTIONS -oServerAliveCountMax=4"

# connect VERB OPTION WORKER ARGUMENTS...: runs ssh or scp to one worker.
connect() {
  local verb=$1 option=$2 worker=$3 flag
  shift 3
  for flag in $SSH_OPTIONS; do
    set -- "$@" "$option=$flag"
  done
  [ "$INTERNAL_IP" = 0 ] || set -- "$@" --internal-ip
  tpus tpu-vm "$verb" "$@" "--worker=$worker" </dev/null
}

# on_worker WORKER WORDS...: runs `tpu/worker.sh WORDS` on a worker.
on_worker() {
  local worker=$1
  shift
  # shellcheck disable=SC2088  # the worker's home, not this machine's
  connect ssh --ssh-flag "$worker" "$TPU_NAME" \
    "--command=bash siglip_jax/tpu/worker.sh $(quoted "$@")"
}

# shell_on_worker WORKER COMMAND: runs a shell command on a worker.
shell_on_worker() {
  connect ssh --ssh-flag "$1" "$TPU_NAME" "--command=$2"
}

# copy_to_worker WORKER FILE: copies a file into a worker's home.
copy_to_worker() {
  connect scp --scp-flag "$1" "$2" "$TPU_NAME:"
}

count_workers() {
  WORKERS=$(worker_count) || exit
  [ "$WORKERS" != NONE ] || again "There is no slice $TPU_NAME in $ZONE." \
    "Run tpu/create.sh first."
}

# try_all FUNCTION ARGUMENTS...: calls `FUNCTION WORKER ARGUMENTS` for all
# workers at once. The output, errors and exit code of worker N are then in
# $SCRATCH/out.N, err.N and code.N.
try_all() {
  local function=$1 worker
  shift
  for ((worker = 0; worker < WORKERS; worker++)); do
    if [ "$DRY_RUN" = 1 ]; then
      "$function" "$worker" "$@"
      echo 0 >"$SCRATCH/code.$worker"
      : >"$SCRATCH/out.$worker"
    else
      (
        "$function" "$worker" "$@" >"$SCRATCH/out.$worker" \
          2>"$SCRATCH/err.$worker"
        echo $? >"$SCRATCH/code.$worker"
      ) &
    fi
  done
  wait
}

code_of() { cat "$SCRATCH/code.$1"; }

# Whether gcloud itself failed, and not the command on the worker.
unreachable() {
  [ "$(code_of "$1")" = 255 ] || grep -q '^ERROR: (gcloud' "$SCRATCH/err.$1"
}

# Prints the last line that a worker printed, for a message of one line.
last_words() {
  cat "$SCRATCH/out.$1" "$SCRATCH/err.$1" | grep -v '^[[:space:]]*$' | tail -n 1
}

# blame WORKER: dies with the reason for that worker's failure.
blame() {
  local words
  words=$(last_words "$1")
  if ! unreachable "$1"; then
    die "$(code_of "$1")" "Worker $1 of $TPU_NAME: ${words#error: }"
  fi
  case $(cat "$SCRATCH/err.$1") in
    *"active account"* | *"auth login"* | *"auth tokens"* | *[Qq]uota* | \
      *ermission*denied*gcloud*) explain "$SCRATCH/err.$1" ;;
  esac
  again "Worker $1 of $TPU_NAME cannot be reached ($words). Try again;" \
    "if it stays away, run tpu/delete.sh and tpu/create.sh."
}

# Does what try_all does, then dies at the first worker that failed.
on_all() {
  local worker
  try_all "$@"
  for ((worker = 0; worker < WORKERS; worker++)); do
    [ "$(code_of "$worker")" = 0 ] || blame "$worker"
  done
}

# Packs the working tree: the files that git tracks or would track, as they are
# now, without deleted ones.
pack_code() {
  ARCHIVE=$SCRATCH/siglip_jax.tar.gz
  git -C "$ROOT" rev-parse --git-dir >/dev/null 2>&1 || wrong \
    "$ROOT must be a git checkout, since git tells which files are the code."
  git -C "$ROOT" ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do
      [ ! -e "$ROOT/$file" ] || printf '%s\0' "$file"
    done >"$SCRATCH/files"
  COPYFILE_DISABLE=1 tar -C "$ROOT" --null -T "$SCRATCH/files" -cf - |
    gzip -n >"$ARCHIVE" || wrong "The code could not be packed."
  DIGEST=$(digest <"$ARCHIVE")
}

# Prints the SHA-256 of the standard input.
digest() {
  if command -v sha256sum >/dev/null; then
    sha256sum | cut -c 1-64
  else
    shasum -a 256 | cut -c 1-64 # macOS
  fi
}

# Copies the same code to all workers, which verify its digest.
sync_code() {
  # The script that unpacks the archive is read from the archive itself.
  local script='tar -xzOf siglip_jax.tar.gz tpu/worker.sh'
  pack_code
  on_all copy_to_worker "$ARCHIVE"
  on_all shell_on_worker "$script | bash -s unpack $DIGEST"
}
