#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Leaves a copy of the page's assets in a volume, where one is mounted, and serves. A newer page then also answers for what an older one, which is open in
# somebody's browser, loads later.
set -eu
html=/usr/share/nginx/html
retained=$html/retained/assets
if [ -w "$retained" ]; then
  # Never over a file that another container may be reading: what has the same name has the same content.
  cp -rn "$html/assets/." "$retained/"
  find "$html/assets" -type f -printf '%P\0' | (cd "$retained" && xargs -0r touch -c)
  find "$retained" -type f -mtime +30 -delete
fi
exec "$@"
