#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
set -eu
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
  exec setpriv --reuid=999 --regid=999 --clear-groups "$0" "$@"
fi
umask 0077
exec "$@"
