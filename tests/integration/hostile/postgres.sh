#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes the login of every directory below /hostile with its bootstrap, and signs in over the network with its password file.
set -eu
cd /hostile
export PGDATABASE=campaign_db

sign_in() {
  login=$(cut -d : -f 4 "$1/pgpass")
  found=$(PGPASSFILE=$1/pgpass psql --no-psqlrc --quiet --no-password --host=postgres --username="$login" --tuples-only --no-align \
    --command='SELECT session_user' 2>&1) || true
  [ "$found" = "$login" ] || echo "$1 pgpass $found"
}

bootstrap() {
  made=$(psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username=campaign_user --file="$1/bootstrap_sql" 2>&1) || echo "$1 bootstrap $made"
}

# With the password that the server has from its own file. The bootstraps give it others.
sign_in JOINED
for key in *; do
  bootstrap "$key"
  sign_in "$key"
done
bootstrap JOINED
