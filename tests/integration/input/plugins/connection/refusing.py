# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection that nothing gets through: a task that reaches for the host fails as unreachable."""

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: refusing
short_description: Refuse every request
description: Proves that a run did not reach for the host.
"""


class Connection(ConnectionBase):
    transport = "refusing"
    has_pipelining = True

    def _connect(self):
        raise AnsibleConnectionFailure("the run reached for the host")

    def exec_command(self, *_args, **_kwargs):
        raise AnsibleConnectionFailure("the run reached for the host")

    put_file = fetch_file = exec_command

    def close(self):
        pass
