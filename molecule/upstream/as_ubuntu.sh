#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Runs a command on this machine as on an Ubuntu that has Docker, and neither mmdebstrap nor an apt archive: as_ubuntu.sh COMMAND...
# What it puts over files is seen by that command alone.
set -euo pipefail

if [ "${1:-}" != --inside ]; then
  exec unshare --mount --propagation private bash "$0" --inside "$@"
fi
shift
claimed=$(mktemp)
printf 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\n' >"$claimed"
mount --bind "$claimed" "$(realpath /etc/os-release)"
mount -t tmpfs -o ro tmpfs /etc/apt
for tool in mmdebstrap debootstrap apt-get; do
  path=$(command -v "$tool") && mount --bind /bin/false "$(realpath "$path")"
done
rm "$claimed"
exec "$@"
