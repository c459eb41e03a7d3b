# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""End a run with an exit code of its own where a deploy failed and the release before it did not come up again."""

from __future__ import annotations

DOCUMENTATION = r"""
name: exit_code
type: aggregate
short_description: Tell by the exit code that a deploy failed and its way back too
version_added: 0.3.0
description:
  - A run of C(ansible-playbook) in which a host failed ends with 2. It ends with 3 where, on any host, what failed could not be put back either, so that the
    stack may be down there. The custom statistics of such a host have C(campaign_not_rolled_back).
  - Callbacks are called in the order in which the configuration names them. This one ends the run, so it has to be the last one.
requirements:
  - enabled in the configuration as the last one, C(callbacks_enabled = ..., campaign.platform.exit_code)
author: campaign.platform contributors (@campaign-platform)
"""

from typing import Any

from ansible.plugins.callback import CallbackBase

# Ansible itself ends with 0, 1, 2, 4 and above.
NOT_ROLLED_BACK = 3
STATISTIC = "campaign_not_rolled_back"


class CallbackModule(CallbackBase):
    """See DOCUMENTATION."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "campaign.platform.exit_code"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """End the run where a way back failed."""
        if any(STATISTIC in given for given in stats.custom.values()):
            raise SystemExit(NOT_ROLLED_BACK)
