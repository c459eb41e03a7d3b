#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copies to /image what the fork's image has: bash and coreutils, as its base has them, and what it adds itself.
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
mkdir /image
cp -a /usr /etc /bin /sbin /lib /lib64 /tmp /image/
