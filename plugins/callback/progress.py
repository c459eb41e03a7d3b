# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show for how long a step has been running, and how long it usually takes."""

from __future__ import annotations

DOCUMENTATION = r"""
name: progress
type: notification
short_description: Show for how long a step has been running
version_added: 0.3.0
description:
  - On a terminal, one line below a step that takes longer says for how long it has been running. It is updated each second and goes when something else is
    shown. Where the output goes to a file or a pipe, a line is added from time to time.
  - A task says how long it usually takes with a variable of its own whose name ends with C(_expected_seconds).
  - It also shortens each step by what Ansible needs to load the filters and tests of templates. The process of each task would load them for itself.
requirements:
  - enabled in the configuration, C(callbacks_enabled = campaign.platform.progress)
options:
  terminal_after:
    description: Seconds after which a step counts as long, on a terminal.
    type: int
    default: 5
    env: [{name: CAMPAIGN_PROGRESS_TERMINAL_AFTER}]
    ini: [{section: callback_campaign_progress, key: terminal_after}]
  log_interval:
    description: Seconds between two lines where the output is no terminal.
    type: int
    default: 30
    env: [{name: CAMPAIGN_PROGRESS_LOG_INTERVAL}]
    ini: [{section: callback_campaign_progress, key: log_interval}]
author: campaign.platform contributors (@campaign-platform)
"""

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import filter_loader, test_loader
from ansible.template import Templar

EXPECTED = "_expected_seconds"
TICK = 1.0
ERASE = "\r\x1b[K"


def clock(seconds: float) -> str:
    """Return a duration as people read it: 0:07, 12:30, 1:02:03."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def text_of(name: str, elapsed: float, expected: float, width: int = 0) -> str:
    """Return the line. ``expected`` is in seconds, 0 where nobody knows; of a line that is wider than ``width`` the name is cut, and not the times."""
    times = f": running for {clock(elapsed)}" + (f", usually takes {clock(expected)}" if expected else "")
    # Without the role, whose part the name of the file says again.
    name = name.rpartition(" : ")[2]
    if width and len(name) + len(times) > width:
        name = f"{name[: max(width - len(times) - 3, 0)]}..."
    return f"{name}{times}"[: width or None]


class Progress:
    """What runs since when, and what of it is on the screen. Times are in seconds of one monotonic clock."""

    def __init__(self, write: Callable[[str], object], *, terminal: bool, after: float, interval: float, width: Callable[[], int] = lambda: 80):
        self._write, self._terminal, self._after, self._interval, self._width = write, terminal, after, interval, width
        # By host and task, in the order of their starts: the name of the step, when it began, how long it usually takes, and when it was last told.
        self._running: dict[object, tuple[str, float, float, float]] = {}
        self._shown = False

    def begin(self, key: object, name: str, expected: float, now: float) -> None:
        """Note that a step has begun."""
        self._running[key] = (name, now, expected, now)

    def end(self, key: object) -> None:
        """Note that a step has ended."""
        self._running.pop(key, None)
        if not self._running:
            self.erase()

    def erase(self) -> None:
        """Take the line away, so that something else can be shown."""
        if self._shown:
            self._shown = False
            self._write(ERASE)

    def tick(self, now: float) -> None:
        """Show what has been running for long; the step that began first stands for those beside it."""
        if not self._running:
            return
        key, (name, began, expected, told) = next(iter(self._running.items()))
        line = text_of(name, now - began, expected, self._width() - 1 if self._terminal else 0)
        if self._terminal:
            if now - began >= self._after:
                self._shown = True
                # Whoever prints next begins in the first column.
                self._write(f"{ERASE}{line}\r")
        elif now - told >= self._interval:
            self._running[key] = (name, began, expected, now)
            self._write(f"{line}\n")


def expected_of(task: Any, loader: Any) -> float:
    """Return how many seconds a task says that it usually takes, 0 if it says nothing. Only its own variables are looked at."""
    own = task.get_vars()
    for name, value in own.items():
        if str(name).endswith(EXPECTED):
            return float(Templar(loader=loader, variables=own).template(value) or 0)
    return 0.0


def load_filters_and_tests() -> None:
    """Have Ansible load all filters and tests of templates, which it does when the first one is asked for.

    The process of a task is a fork that begins with what is loaded by then, and what it loads ends with it.
    """
    filter_loader.get("default")
    test_loader.get("defined")


def write_to(descriptor: int) -> Callable[[str], object]:
    """Return a function that writes a text at once, past all buffers: no lock of theirs is held when Ansible forks."""
    return lambda text: os.write(descriptor, text.encode(errors="replace"))


def harmless(method: Callable[..., None]) -> Callable[..., None]:
    """Let a method's failure end the display and never the run."""

    @wraps(method)
    def guarded(self: CallbackModule, *arguments: Any, **named: Any) -> None:
        if self.disabled:
            return
        try:
            method(self, *arguments, **named)
        except Exception:
            self.disabled = True

    return guarded


class CallbackModule(CallbackBase):
    """See DOCUMENTATION."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "campaign.platform.progress"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, display: Any = None, options: Any = None):
        super().__init__(display=display, options=options)
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._names: dict[str, tuple[str, float]] = {}
        self._loader: Any = None
        self._pid = os.getpid()
        self._progress: Progress | None = None

    def _start(self) -> Progress:
        terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        after, interval = (float(self.get_option(name)) for name in ("terminal_after", "log_interval"))
        progress = Progress(
            write_to(sys.stdout.fileno()), terminal=terminal, after=after, interval=interval, width=lambda: shutil.get_terminal_size((80, 24)).columns
        )
        if terminal:
            self._make_room(progress)
        threading.Thread(target=self._tick, args=(progress,), daemon=True).start()
        return progress

    def _make_room(self, progress: Progress) -> None:
        """Have the line erased before anything is shown. Callbacks are called behind the one that prints, which is too late."""
        show = self._display.display

        def display(*arguments: Any, **named: Any) -> Any:
            # A worker process hands its texts to the main one.
            if os.getpid() != self._pid:
                return show(*arguments, **named)
            with self._lock:
                progress.erase()
                return show(*arguments, **named)

        self._display.display = display

    def _tick(self, progress: Progress) -> None:
        try:
            while not self._over.wait(TICK):
                with self._lock:
                    progress.tick(time.monotonic())
        except Exception:
            self.disabled = True

    @harmless
    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Begin to watch, and load what every task needs."""
        self._loader = playbook.get_loader()
        self._progress = self._start()
        load_filters_and_tests()

    @harmless
    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Keep the name, which is rendered only now."""
        del is_conditional
        self._names = {task._uuid: (task.get_name().strip(), expected_of(task, self._loader))}

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """Keep the name of a handler."""
        self.v2_playbook_on_task_start(task, False)

    @harmless
    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Start a step's clock."""
        name, expected = self._names.get(task._uuid) or (task.get_name().strip(), 0.0)
        if self._progress:
            with self._lock:
                self._progress.begin((host.get_name(), task._uuid), name, expected, time.monotonic())

    @harmless
    def _ended(self, result: Any) -> None:
        if self._progress:
            with self._lock:
                self._progress.end((result.host.get_name(), result.task._uuid))

    def v2_runner_on_ok(self, result: Any) -> None:
        """Stop a step's clock."""
        self._ended(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Stop a step's clock."""
        del ignore_errors
        self._ended(result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Stop a step's clock."""
        self._ended(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Stop a step's clock."""
        self._ended(result)

    @harmless
    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Stop watching."""
        del stats
        self._over.set()
        if self._progress:
            with self._lock:
                self._progress.erase()
