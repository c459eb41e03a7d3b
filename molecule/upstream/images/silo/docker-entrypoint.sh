#!/usr/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
set -eu
if [ "${1:-}" != minio ]; then
  set -- minio "$@"
fi
exec "$@"
