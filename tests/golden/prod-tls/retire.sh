#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Removes the accounts of earlier access keys. Run when every service of the new release was verified, and so signs in with its new key.
# Credentials go through standard input, so that no process list and no environment shows them.
# The image has a shell, coreutils and mc, and no grep, sed or curl: https://github.com/pgsty/minio
set -eu
export MC_CONFIG_DIR=/tmp/mc MC_QUIET=1 MC_NO_COLOR=1
mc alias set stack http://minio:9000 --api S3v4 < /run/secrets/root_credentials > /dev/null
for file in /run/earlier/api_access_key/*; do
  [ -r "$file" ] || continue
  access_key=$(cat "$file")
  is_used=
  [ "$access_key" != "$(cat /run/secrets/api_access_key)" ] || is_used=yes
  if [ -z "$is_used" ] && mc admin user info -- stack "$access_key" > /dev/null 2>&1; then
    mc admin user rm -- stack "$access_key" > /dev/null
  fi
done
