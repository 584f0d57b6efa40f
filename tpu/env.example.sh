# shellcheck shell=bash disable=SC2034
# Settings of the TPU scripts. Copy to tpu/env.sh, which git ignores, and edit.
# A variable of the environment wins: ZONE=us-east5-a tpu/create.sh

# Whose and where: `gcloud projects list`, and the zone of your quota.
PROJECT=${PROJECT-}
ZONE=${ZONE-us-central2-b}
TPU_NAME=${TPU_NAME-siglip}

# v4-8 is four v4 chips on one host; v4-32, v5litepod-16, v5p-8, v6e-8 ...
ACCELERATOR_TYPE=${ACCELERATOR_TYPE-v4-8}
# Empty: the one for JAX on this generation.
RUNTIME_VERSION=${RUNTIME_VERSION-}
# on-demand, spot or reserved.
PROVISIONING=${PROVISIONING-spot}
# 1 queues for a slice; 0 asks once and fails if there is none.
QUEUED=${QUEUED-1}
# How long a queued request stays good, e.g. 12h. Empty: until deleted.
VALID_UNTIL=${VALID_UNTIL-}

# A bucket in the zone's region, without gs://; every worker mounts it at
# ~/bucket, and a workdir bucket/runs/NAME is in it. Empty: none.
BUCKET=${BUCKET-}
# What configs read as TFDS_DATA_DIR: absolute, or below a worker's home.
DATA_DIR=${DATA_DIR-bucket/data}
# Further NAME=value pairs for the run's environment.
WORKER_ENV=()

# Who the workers are; empty: the project's default account.
SERVICE_ACCOUNT=${SERVICE_ACCOUNT-}
# Empty: the network `default`.
NETWORK=${NETWORK-}
SUBNETWORK=${SUBNETWORK-}
# 1: no external addresses; then run these scripts inside that network.
INTERNAL_IP=${INTERNAL_IP-0}
