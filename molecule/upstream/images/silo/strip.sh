#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Leaves bash and coreutils, as the base of the fork's image has them, and what the image itself adds.
set -euo pipefail
declare -A kept
for name in bash minio mc mcli docker-entrypoint.sh; do
  kept["$name"]=1
done
while read -r path; do
  kept["${path##*/}"]=1
done < <(dpkg -L coreutils)
rm -rf /opt/*
for file in /usr/bin/* /usr/sbin/* /usr/local/bin/*; do
  [ -n "${kept["${file##*/}"]:-}" ] || rm -rf "$file"
done
ln -sf bash /usr/bin/sh
