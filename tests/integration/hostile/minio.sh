#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Runs the bootstrap below /hostile/JOINED as a whole, and of the others what makes the api's key: the rest is the same for all and takes
# seconds. Each reads its credentials in its own directory instead of /run/secrets.
set -eu
cd /hostile
if [ $# = 1 ]; then
  # One of those below, in a process of its own.
  told=$(sh -eu "/tmp/$1.sh" 2>&1) || echo "$1 bootstrap $told"
  exit
fi
told=$(sh JOINED/bootstrap.sh 2>&1) || echo "JOINED bootstrap $told"
export MC_CONFIG_DIR=/tmp/mc MC_QUIET=1 MC_NO_COLOR=1
# Where the value may not be the name of the user, only the secret key is the value, and the policy comes to all of these at once.
for key in HOSTILE_* NAMED; do
  if [ "$(cat "$key/s3_access_key")" = "$key" ]; then
    echo "mc admin user add stack < /hostile/$key/api_credentials > /dev/null" > "/tmp/$key.sh"
    set -- "$@" "$key"
  else
    sed '1,/admin policy create/d' "$key/bootstrap.sh" > "/tmp/$key.sh"
  fi
done
printf '%s\n' HOSTILE_* NAMED | xargs -P 4 -n 1 sh "$0"
mc admin group add stack hostile "$@" > /dev/null
mc admin policy attach stack campaign-api --group hostile > /dev/null
