# shellcheck shell=bash
# Made of siglip_jax/plan/chips.py; change that, then run
#   python -m siglip_jax.plan.chips >tpu/chips.sh

# shellcheck disable=SC2034  # for settings.sh
readonly ACCELERATOR_PREFIXES='v2-, v3-, v4-, v5litepod-, v5p- or v6e-'

# The software version of the machines of $ACCELERATOR_TYPE.
default_runtime() {
  case $ACCELERATOR_TYPE in
    v2-*) echo tpu-ubuntu2204-base ;;
    v3-*) echo tpu-ubuntu2204-base ;;
    v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) return 1 ;;
  esac
}

# usual_workers SIZE: how many machines a slice of that number has.
usual_workers() {
  case $ACCELERATOR_TYPE in
    v2-*) echo $(($1 > 8 ? $1 / 8 : 1)) ;;
    v3-*) echo $(($1 > 8 ? $1 / 8 : 1)) ;;
    v4-*) echo $(($1 > 8 ? $1 / 8 : 1)) ;;
    v5litepod-*) echo $(($1 > 8 ? $1 / 4 : 1)) ;;
    v5p-*) echo $(($1 > 8 ? $1 / 8 : 1)) ;;
    v6e-*) echo $(($1 > 8 ? $1 / 4 : 1)) ;;
  esac
}
