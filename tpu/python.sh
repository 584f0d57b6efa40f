#!/usr/bin/env bash
# tpu/python.sh MODULE ARGUMENTS...: runs `python -m MODULE`, for example
# siglip_jax.embed, on all workers and follows worker 0's log. As with
# tpu/run.sh, the command outlives this script and the exit codes are the same.

# shellcheck source=tpu/settings.sh
. "$(dirname "$0")/settings.sh"
# shellcheck source=tpu/gcloud.sh
. "$TPU/gcloud.sh"
# shellcheck source=tpu/workers.sh
. "$TPU/workers.sh"
# shellcheck source=tpu/runs.sh
. "$TPU/runs.sh"

case ${1-} in
  siglip_jax.?*) ;;
  *) wrong "A module of siglip_jax is needed: $0 siglip_jax.embed" \
    "[--FLAG=VALUE ...]; got '${1-}'." ;;
esac
module=$1
shift
RUN_ARGUMENTS=("$@")
count_workers
sync_code
start_all "$module"
finish
