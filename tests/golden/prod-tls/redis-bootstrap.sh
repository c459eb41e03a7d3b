#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Tells the running Redis what its ACL file says, which it reads when it starts. `prepare` adds: a user that has another password keeps that one too, so that
# who signs in with it goes on. `finish` leaves the passwords and users of this release alone.
set -eu
mode=$1
tries=0
until redis-cli -u redis://health:none@redis:6379 --no-auth-warning ping 2> /dev/null | grep -qx PONG; do
  tries=$((tries + 1))
  if [ "$tries" -ge 600 ]; then
    echo 'Redis did not answer within 600 tries' >&2
    exit 1
  fi
  sleep 0.2
done
# Commands and passwords go through standard input, so that no process list and no environment shows them.
ask() {
  { printf 'AUTH bootstrap %s\n' "$(cat "$password")"; cat "$@"; } | redis-cli -h redis --no-auth-warning
}
password=
for file in /run/secrets/admin_password /run/earlier/admin_password/*; do
  [ -r "$file" ] || continue
  password=$file
  if [ "$(ask /dev/null)" = OK ]; then
    break
  fi
  password=
done
if [ -z "$password" ]; then
  echo 'Redis refuses its own administrator. It runs with the ACL file of another generation_key: restart it, and deploy again.' >&2
  exit 1
fi
# Each command is answered by OK, or by an error whose first word says what it is. The rest may name a rule.
if ask "/run/secrets/users_$mode" | grep -vx -e OK -e '' | cut -d ' ' -f 1 | grep . >&2; then
  echo 'Redis refuses a user. The last service whose acl was changed is the first to look at.' >&2
  exit 1
fi
if [ "$mode" = finish ]; then
  printf 'ACL USERS\n' > /tmp/users
  ask /tmp/users | grep -vx -e OK -F -f /run/secrets/users_known | while read -r user; do
    [ -z "$user" ] || printf 'ACL DELUSER %s\n' "$user"
  done > /tmp/gone
  ask /tmp/gone > /dev/null
fi
