#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes the login of every directory below /hostile with its bootstrap, and signs in over the network with its password file.
set -eu
cd /hostile
export PGDATABASE=campaign_db
for key in *; do
  login=$(cut -d : -f 4 "$key/pgpass")
  made=$(psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username=campaign_user --file="$key/bootstrap_sql" 2>&1) || echo "$key bootstrap $made"
  found=$(PGPASSFILE=$key/pgpass psql --no-psqlrc --quiet --no-password --host=postgres --username="$login" --tuples-only --no-align \
    --command='SELECT session_user' 2>&1) || true
  [ "$found" = "$login" ] || echo "$key pgpass $found"
done
