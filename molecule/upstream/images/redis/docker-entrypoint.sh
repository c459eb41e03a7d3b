#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
set -eu
umask 0077
exec "$@"
