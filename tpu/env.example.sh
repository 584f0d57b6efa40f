# shellcheck shell=bash disable=SC2034
# Settings of the TPU scripts. Copy to tpu/env.sh, which git ignores, and edit.
# Environment variables override this file: ZONE=us-east5-a tpu/create.sh

# Your project (see `gcloud projects list`) and the zone of your quota.
PROJECT=${PROJECT-}
ZONE=${ZONE-us-central2-b}
TPU_NAME=${TPU_NAME-siglip}

# v4-8 is four v4 chips on one host; v4-32, v5litepod-16, v5p-8, v6e-8 ...
ACCELERATOR_TYPE=${ACCELERATOR_TYPE-v4-8}
# Empty: the version for JAX on this TPU generation.
RUNTIME_VERSION=${RUNTIME_VERSION-}
# on-demand, spot or reserved.
PROVISIONING=${PROVISIONING-spot}
# 1 waits in the queue for a slice; 0 asks once and fails if none is free.
QUEUED=${QUEUED-1}
# How long a queued request stays valid, e.g. 12h. Empty: until deleted.
VALID_UNTIL=${VALID_UNTIL-}

# Name of a bucket in the zone's region, without gs://. Every worker mounts it
# at ~/bucket, so a workdir bucket/runs/NAME is in the bucket. Empty: no bucket.
BUCKET=${BUCKET-}
# The value of TFDS_DATA_DIR for configs: an absolute path, or a path relative
# to a worker's home.
DATA_DIR=${DATA_DIR-bucket/data}
# Further NAME=value pairs for the run's environment.
WORKER_ENV=()

# The workers' service account. Empty: the project's default account.
SERVICE_ACCOUNT=${SERVICE_ACCOUNT-}
# Empty: the network `default`.
NETWORK=${NETWORK-}
SUBNETWORK=${SUBNETWORK-}
# 1: the workers get no external addresses; run these scripts inside their
# network then.
INTERNAL_IP=${INTERNAL_IP-0}
