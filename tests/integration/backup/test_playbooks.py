# SPDX-License-Identifier: GPL-3.0-or-later
"""Backup and restore as a person has them done, by the playbooks: after a mistake, and after the loss of the host."""

import shutil
from pathlib import Path


def test_what_a_mistake_removed_comes_back(stack):
    stack.change()
    made = stack.play("backup")
    assert made.status == 0, made.text[-3000:]
    before = stack.fingerprint()
    stack.sql("DELETE FROM campaign.campaigns; DROP TABLE IF EXISTS public.shapes; SELECT lo_unlink(oid) FROM pg_largeobject_metadata")
    client = stack.s3()
    for listed in list(client.objects("campaign-assets")):
        if listed.key.startswith("campaigns/"):
            client.ask("removing it", "DELETE", f"/campaign-assets/{listed.key}")
    client.close()
    left = stack.fingerprint()
    assert left != before
    asked = stack.play("restore")
    assert asked.status != 0
    assert f"backup_restore_confirm={stack.project}" in asked.text
    assert stack.fingerprint() == left
    restored = stack.play("restore", backup_restore_confirm=stack.project)
    assert restored.status == 0, restored.text[-3000:]
    assert stack.fingerprint() == before
    removed = stack.play("restore", backup_old_volumes="remove")
    assert removed.status == 0, removed.text[-3000:]


def test_a_host_that_was_lost_comes_back_from_the_repository_and_its_password(stack):
    """The last one of all: the stack has other secrets afterwards."""
    made = stack.play("backup")
    assert made.status == 0, made.text[-3000:]
    before, secrets = stack.fingerprint(), stack.files()
    down = stack.play("down")
    assert down.status == 0, down.text[-3000:]
    stack.docker("volume", "rm", *stack.volumes())
    shutil.rmtree(stack.directory)
    (stack.private / "secrets.json").unlink()
    crontab = Path(f"/etc/cron.d/{stack.project}-backup")
    crontab.unlink()
    deployed = stack.play("site")
    assert deployed.status == 0, deployed.text[-3000:]
    assert stack.files() != secrets
    # Who only looks has no backup of the empty stack made.
    asked = stack.play("restore")
    assert f"backup_restore_confirm={stack.project}" in asked.text
    assert not crontab.exists()
    restored = stack.play("restore", backup_restore_confirm=stack.project)
    assert restored.status == 0, restored.text[-3000:]
    assert stack.fingerprint() == before
    assert crontab.exists()
    again = stack.play("site")
    assert again.status == 0, again.text[-3000:]
    drilled = stack.play("drill")
    assert drilled.status == 0, drilled.text[-3000:]
