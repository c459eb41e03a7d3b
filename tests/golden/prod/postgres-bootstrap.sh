#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Waits for the server, then creates roles and rights. Run before a release is started; what is there already is brought up to date.
set -eu
# Asked more often than a healthcheck does, and not for ever, because nobody else sets it an end. The name of a container that does not run is not known, so
# a server that does not stay up is noticed soon. Nobody may answer for such a name in an internal network; a lookup is not given the usual half minute.
started=$(date +%s)
away=0
until RES_OPTIONS='timeout:2 attempts:1' pg_isready --quiet; do
  now=$(date +%s)
  if ! RES_OPTIONS='timeout:2 attempts:1' getent hosts "$PGHOST" > /dev/null; then
    away=$((away + 1))
    [ "$away" -gt 1 ] || gone=$now
  fi
  if [ $((now - started)) -ge 180 ] || { [ "$away" -ge 3 ] && [ $((now - gone)) -ge 8 ]; }; then
    echo "$PGHOST does not answer after $((now - started)) s; $away times its name was not known either" >&2
    exit 1
  fi
  sleep 0.2
done
status=0
psql --no-psqlrc --quiet --no-password -v ON_ERROR_STOP=1 -d postgres -f /run/secrets/bootstrap_sql || status=$?
# The administrator's password in the volume is this release's, or that of one before it, which the host still has: nobody has changed it there yet, or a
# release that failed has. The SQL then sets this release's.
for file in /run/earlier/pgpass/*; do
  [ "$status" -eq 2 ] && [ -r "$file" ] || continue
  status=0
  PGPASSFILE=$file psql --no-psqlrc --quiet --no-password -v ON_ERROR_STOP=1 -d postgres -f /run/secrets/bootstrap_sql || status=$?
done
if [ "$status" -eq 2 ]; then
  echo "The server refuses its own administrator. Its volume holds the data of other secrets, or its first start was interrupted in its middle." >&2
  echo "Restore those secrets. Or give it this one, as root in the stack's directory: docker compose start postgres, then" >&2
  echo '  docker compose exec postgres psql -U campaign_user postgres, and there \password' >&2
  echo "Where nothing was stored yet, take the stack down, remove the volume postgres-data of the project and deploy again." >&2
fi
exit "$status"
