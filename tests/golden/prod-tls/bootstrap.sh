#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Creates the bucket and a key pair for each service that has one. Run before a release is started; what is there already is left or brought up to date.
# Credentials go through standard input, so that no process list and no environment shows them.
# The image has a shell, coreutils and mc, and no grep, sed or curl: https://github.com/pgsty/minio
set -eu
export MC_CONFIG_DIR=/tmp/mc MC_QUIET=1 MC_NO_COLOR=1
# Asked again every second, because mc itself waits longer between two tries.
export MC_HOST_ready=http://minio:9000
tries=0
until timeout 1 mc ready ready > /dev/null 2>&1; do
  tries=$((tries + 1))
  if [ "$tries" -ge 180 ]; then
    echo 'MinIO did not answer within 180 tries' >&2
    exit 1
  fi
  sleep 0.2
done
mc alias set stack http://minio:9000 --api S3v4 < /run/secrets/root_credentials > /dev/null
mc mb --ignore-existing 'stack/campaign-assets'
mc admin policy create stack campaign-api /etc/campaign/policy-api.json
mc admin user add stack < /run/secrets/api_credentials > /dev/null
access_key=$(cat /run/secrets/api_access_key)
mc admin policy attach stack campaign-api --user="$access_key" > /dev/null
