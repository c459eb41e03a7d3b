#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes the cluster on an empty volume, then runs the server. Understands the variables of the upstream image that this project
# and its users rely on: POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB and their *_FILE forms, POSTGRES_INITDB_ARGS.
set -eu

fail() {
  echo "postgres: $1" >&2
  exit 1
}

# Prints the value of a variable, or the content of the file that its _FILE form names: from_file NAME "$NAME" "$NAME_FILE".
from_file() {
  [ -z "$2" ] || [ -z "$3" ] || fail "set $1 or $1_FILE, not both"
  if [ -n "$3" ]; then
    [ -r "$3" ] || fail "$1_FILE names $3, which uid $(id -u) cannot read"
    cat "$3"
  else
    printf '%s' "$2"
  fi
}

# An empty cluster beside somebody's data would pass for all of it, so none is made there.
refuse_beside_data() {
  for file in /var/lib/postgresql/PG_VERSION /var/lib/postgresql/*/PG_VERSION /var/lib/postgresql/*/*/PG_VERSION; do
    place=${file%/PG_VERSION}
    # Each database of a cluster has a file of that name too, and so has a cluster that was interrupted half-way, which is made anew.
    if [ -s "$file" ] && [ -d "$place/global" ] && [ "$place" != "$PGDATA.making" ]; then
      fail "$place has data of PostgreSQL $(cat "$file"), and this image, which has PostgreSQL $PG_MAJOR, reads $PGDATA, where there is none. Nothing was \
changed. The playbook campaign.platform.upgrade_postgres brings data of another major version over"
    fi
  done
}

make_cluster() {
  POSTGRES_PASSWORD=$(from_file POSTGRES_PASSWORD "${POSTGRES_PASSWORD:-}" "${POSTGRES_PASSWORD_FILE:-}")
  POSTGRES_USER=$(from_file POSTGRES_USER "${POSTGRES_USER:-}" "${POSTGRES_USER_FILE:-}")
  POSTGRES_DB=$(from_file POSTGRES_DB "${POSTGRES_DB:-}" "${POSTGRES_DB_FILE:-}")
  [ -n "$POSTGRES_PASSWORD" ] || fail "POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE is missing or empty"
  POSTGRES_USER=${POSTGRES_USER:-postgres}
  POSTGRES_DB=${POSTGRES_DB:-$POSTGRES_USER}
  export POSTGRES_USER POSTGRES_DB

  # A cluster that was interrupted half-way must not pass for a whole one, so it is made beside its place.
  making=$PGDATA.making
  rm -rf "$making"
  mkdir -p "$(dirname "$PGDATA")"
  password_file=$(mktemp)
  printf '%s\n' "$POSTGRES_PASSWORD" > "$password_file"
  # POSTGRES_INITDB_ARGS is words of the user's choosing, so xargs splits them as a shell would.
  printf '%s\n' "${POSTGRES_INITDB_ARGS:-}" | xargs initdb --pgdata="$making" --username="$POSTGRES_USER" --pwfile="$password_file" \
    --auth-local=trust --auth-host=scram-sha-256
  rm -f "$password_file"
  {
    echo 'local all all trust'
    echo 'host all all 127.0.0.1/32 trust'
    echo 'host all all ::1/128 trust'
    echo 'host all all all scram-sha-256'
  } > "$making/pg_hba.conf"
  echo "listen_addresses = '*'" >> "$making/postgresql.conf"

  # No TCP until the scripts are done, so that a health check over TCP cannot pass too early.
  pg_ctl --pgdata="$making" --options="-c listen_addresses=''" --wait --silent start
  if [ "$POSTGRES_DB" != postgres ]; then
    createdb --username="$POSTGRES_USER" --maintenance-db=postgres "$POSTGRES_DB"
  fi
  for script in /docker-entrypoint-initdb.d/*; do
    case $script in
      *.sh) sh "$script" ;;
      *.sql) psql --quiet --set=ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" --file "$script" ;;
    esac
  done
  pg_ctl --pgdata="$making" --mode=fast --wait --silent stop
  mv "$making" "$PGDATA"
}

case ${1:-} in
  -*) set -- postgres "$@" ;;
esac
if [ "${1:-}" = postgres ]; then
  if grep -q ' /var/lib/postgresql/data ' /proc/self/mounts; then
    fail "a volume is mounted at /var/lib/postgresql/data. From PostgreSQL 18 on mount it at /var/lib/postgresql"
  fi
  if [ ! -s "$PGDATA/PG_VERSION" ]; then
    refuse_beside_data
    make_cluster
  fi
  found=$(cat "$PGDATA/PG_VERSION")
  [ "$found" = "$PG_MAJOR" ] || fail "the data in $PGDATA is of PostgreSQL $found, this image is $PG_MAJOR. Dump with the old image, restore with the new one"
fi
exec "$@"
