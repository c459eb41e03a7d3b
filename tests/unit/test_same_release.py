# SPDX-License-Identifier: GPL-3.0-or-later
"""The same inputs give the same release in every process, so that a second run changes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
# The consumer's entries have logins with grants, jobs, settings, files and changes of known services.
SCRIPT = """
import json, sys
sys.path.insert(0, "tests")
import program
given = json.load(sys.stdin)
print(json.dumps(program.build(given, images=["mailer"])))
"""


def built(seed: int) -> dict:
    services = yaml.safe_load((ROOT / "examples/consumer/inventory/group_vars/campaign/services.yml").read_text())["stack_services"]
    given = {"stack_services": services, "inventory_dir": str(ROOT / "examples/consumer/inventory")}
    env = os.environ | {"PYTHONHASHSEED": str(seed)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, env=env, input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_process_builds_the_same_release():
    first, *others = [built(seed) for seed in (1, 2, 3)]
    assert "postgres-grants" in first["manifest"]["jobs"]
    for other in others:
        assert other == first
