# SPDX-License-Identifier: GPL-3.0-or-later
"""A variable is rendered once a task, and what one task saw is not carried into the next."""

import multiprocessing

import pytest
from ansible.errors import AnsibleLookupError
from ansible_collections.campaign.platform.plugins.lookup.once import LookupModule


class Templar:
    """Counts what it renders."""

    def __init__(self):
        self.rendered = []

    def template(self, value):
        self.rendered.append(value)
        return f"{value} {len(self.rendered)}"


def ask(names, host="one", templar=None):
    lookup = LookupModule()
    lookup._templar = templar or Templar()
    variables = {"inventory_hostname": host, "a": "A", "b": "B"}
    return lookup.run(names, variables)


def in_a_task(queue):
    templar = Templar()
    queue.put([ask(["a"], templar=templar), ask(["a", "b"], templar=templar), ask(["a"], host="two", templar=templar)])


def run_a_task():
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=in_a_task, args=(queue,))
    process.start()
    answers = queue.get(timeout=10)
    process.join()
    return answers


def test_a_task_renders_a_variable_once_for_each_host():
    assert run_a_task() == [["A 1"], ["A 1", "B 2"], ["A 3"]]


def test_the_first_process_remembers_nothing():
    templar = Templar()
    assert [ask(["a"], templar=templar), ask(["a"], templar=templar)] == [["A 1"], ["A 2"]]
    assert run_a_task()[0] == ["A 1"]


def test_a_name_that_nobody_gave_is_an_error():
    with pytest.raises(AnsibleLookupError, match="no variable c"):
        ask(["c"])
