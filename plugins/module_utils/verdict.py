# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The words in which a verification says what failed, the same from the host and from the controller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def shorten(text: str, limit: int = 200) -> str:
    """Return text on one line, cut to what a message can carry."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def told(failures: Sequence[Mapping[str, str]], count: int) -> str:
    """Return the message of a verification of so many checks, of which these failed: each with service, check, expected, got and look."""
    lines = [f"- {item['service']}, {item['check']}: expected {item['expected']}; got {item['got']}. Look at: {item['look']}" for item in failures]
    return "\n".join([f"{len(failures)} of {count} checks failed:", *lines])
