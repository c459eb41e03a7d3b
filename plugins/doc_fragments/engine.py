# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What modules that ask the Docker Engine have in common."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of `campaign.platform.engine`."""

    DOCUMENTATION = r"""
options:
  socket:
    description: The Engine's socket.
    type: path
    default: /var/run/docker.sock
"""
