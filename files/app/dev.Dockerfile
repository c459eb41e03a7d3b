# SPDX-License-Identifier: GPL-3.0-or-later
# The whole workspace, for hot reload and the linters: sources are mounted over it, and everything written goes to /tmp.
ARG DEPS_IMAGE
FROM ${DEPS_IMAGE}
WORKDIR /app
COPY . .
CMD ["node", "scripts/dev.mjs", "api"]
