#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Run by the entrypoint when the cluster is made.
psql --quiet --set=ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
  --command 'CREATE EXTENSION IF NOT EXISTS postgis'
