#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Edit one package of the application after the other, deploy, and see that exactly the services whose image it goes into have new containers.

Of some, a check is asked first, and has to predict the same services.

`tests/edits.py FILES PROJECT COMMAND...`: FILES is a copy of the directory `files`, which is edited; COMMAND deploys it.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

# A file of each package, and the services that have to be recreated for an edit in it.
EDITS = {
    "scheduler/src/main.ts": {"scheduler"},
    "rules-engine/src/main.ts": {"rules-engine"},
    "api/src/main.ts": {"api"},
    "frontend/src/main.tsx": {"page"},
    "shared/src/log.ts": {"api", "rules-engine", "scheduler"},
}
PREDICTED = {"rules-engine/src/main.ts", "shared/src/log.ts"}
SERVICE = "com.docker.compose.service"


def containers(project: str) -> dict[str, str]:
    """Return the ids of the running containers by service."""
    listed = subprocess.run(["docker", "ps", "--quiet", "--filter", f"label=com.docker.compose.project={project}"], check=True, capture_output=True, text=True)
    inspected = subprocess.run(["docker", "inspect", *listed.stdout.split()], check=True, capture_output=True, text=True)
    return {container["Config"]["Labels"][SERVICE]: container["Id"] for container in json.loads(inspected.stdout)}


def predicted(command: list[str]) -> set[str]:
    """Return the services that a check names as replaced."""
    done = subprocess.run([*command, "--check"], check=True, capture_output=True, text=True)
    return set(re.findall(r"^ +([a-z-]+) +replaced without a gap: image ", done.stdout, re.MULTILINE))


def main(files: Path, project: str, command: list[str]) -> int:
    wrong = 0
    for name, expected in EDITS.items():
        path = files / "app/packages" / name
        # Something that stays in a minified bundle.
        path.write_text(
            path.read_text() + f"\nprocess.title = {json.dumps(name)};\n" if "frontend" not in name else path.read_text() + '\ndocument.title += "";\n'
        )
        before = containers(project)
        foreseen = predicted(command) if name in PREDICTED else expected
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            print(done.stdout[-4000:], done.stderr[-2000:])
            return 1
        after = containers(project)
        changed = {service for service in before.keys() | after.keys() if before.get(service) != after.get(service)}
        right = changed == expected == foreseen
        wrong += not right
        print(f"{'ok' if right else 'WRONG'}: an edit of {name} recreated {', '.join(sorted(changed)) or 'nothing'}; expected {', '.join(sorted(expected))}")
        if foreseen != expected:
            print(f"       a check before it named {', '.join(sorted(foreseen)) or 'nothing'}")
    return int(wrong > 0)


sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
