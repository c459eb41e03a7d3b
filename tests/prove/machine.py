# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine with systemd and an Engine of its own, in a container of this machine's Engine, so that both can be ended at any moment."""

import datetime
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from conftest import DIRECTORY, PROJECT, Stack, docker
from deployed import images

NAME, IMAGE, SUITE = "campaign-reboot", "campaign/machine-reboot:1", "bookworm"
UNIT = f"docker-resume-{PROJECT}.service"
IMAGES = ("api", "frontend", "minio", "nginx", "postgis", "redis", "rules-engine", "scheduler")
PACKAGES = "python3,python3-apt,ca-certificates,iproute2,procps,systemd-sysv,dbus,iptables,docker.io"
PLUGINS = ("/usr/libexec/docker/cli-plugins", "/usr/lib/docker/cli-plugins")
# An Engine within an Engine, and systemd, need more than a plain container has. A restart of the container is a reboot, and this signal is the graceful one.
RUN = [
    f"--hostname={NAME}",
    *(f"--cap-add={name}" for name in ("SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "NET_RAW", "SYSLOG", "DAC_READ_SEARCH")),
    *(f"--security-opt={name}=unconfined" for name in ("seccomp", "apparmor", "systempaths")),
    "--cgroupns=host",
    "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw",
    "--device-cgroup-rule=a *:* rwm",
    "--volume=/var/lib/docker",
    *(f"--tmpfs={path}" for path in ("/run", "/run/lock")),
    "--env=container=docker",
    "--stop-signal=SIGRTMIN+3",
]
# Seconds in which a service has to be back after the machine or the Engine has.
BACK = 60.0


def create_image() -> None:
    """Create the image of a Debian machine, once."""
    if docker("image", "ls", "--quiet", IMAGE):
        return
    if not shutil.which("mmdebstrap"):
        subprocess.run(["apt-get", "update", "--quiet"], check=True, timeout=200)
        subprocess.run(
            ["apt-get", "--option=DPkg::Lock::Timeout=120", "install", "--quiet", "--yes", "--no-install-recommends", "mmdebstrap", "debian-archive-keyring"],
            check=True,
            timeout=200,
        )
    sources = "".join(path.read_text() for path in (Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*.sources")) if path.is_file())
    found = re.search(r"https?://\S+/debian/?(?=\s)", sources)
    assert found, "this machine's apt names no archive of Debian"
    pipe = (
        f"mmdebstrap --quiet --variant=minbase --include={PACKAGES} '--aptopt=Acquire::Check-Valid-Until \"false\"' {SUITE} - "
        f"'deb {found[0]} {SUITE} main' | docker import - {IMAGE}"
    )
    subprocess.run(["bash", "-o", "pipefail", "-c", pipe], check=True, timeout=600)


class Machine(Stack):
    """The machine, and a stack on it."""

    prefix = ("docker", "exec", "--interactive", NAME)

    def __init__(self, directory: Path):
        built = images()
        self.references = {name: built[name] for name in IMAGES}
        ours = {
            "ansible_connection": "community.docker.docker",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_remote_tmp": "/var/tmp/ansible",
            # They are there already, so that nothing is pulled.
            "images_source": "pull",
            "images_upstream": self.references,
        }
        super().__init__(directory, NAME, **ours)

    def create(self) -> None:
        """Start it for the first time, with the images that the stack needs."""
        create_image()
        docker("run", "--detach", f"--name={NAME}", *RUN, IMAGE, "/sbin/init")
        self.wait_for("the Engine", lambda: self.inside("docker", "version").returncode == 0)
        plugins = next(path for path in PLUGINS if Path(path, "docker-compose").is_file())
        self.docker_host("mkdir", "--parents", plugins)
        for plugin in ("docker-compose", "docker-buildx"):
            docker("cp", f"{plugins}/{plugin}", f"{NAME}:{plugins}/{plugin}")
        pipe = f"docker save {' '.join(self.references.values())} | docker exec --interactive {NAME} docker load --quiet"
        subprocess.run(["bash", "-o", "pipefail", "-c", pipe], check=True, stdout=subprocess.DEVNULL, timeout=300)

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine, whatever becomes of it."""
        return subprocess.run(["docker", "exec", NAME, *command], capture_output=True, text=True, timeout=120, check=False)

    def docker_host(self, *command: str, check: bool = True) -> str:
        """Return what a command on the machine prints; fail where it does not end well, unless ``check`` is false."""
        done = self.inside(*command)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def docker(self, *arguments: str, check: bool = True) -> str:
        return self.docker_host("docker", *arguments, check=check)

    def read(self, name: str) -> str:
        return self.docker_host("cat", f"{DIRECTORY}/{name}")

    def current(self) -> str:
        return self.docker_host("readlink", f"{DIRECTORY}/current").rpartition("/")[2]

    def seconds(self) -> float:
        """Return how long the first deploy took from the first thing that it changed."""
        started, succeeded = (datetime.datetime.fromisoformat(line["time"]) for line in self.events()[:2])
        return (succeeded - started).total_seconds()

    def wait_for(self, what: str, condition: Any, seconds: float = BACK) -> float:
        """Return after how many seconds something is the case."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < seconds, f"{what}: not within {seconds:.0f} s\n{self.diagnosis()}"
            time.sleep(0.5)
        return time.monotonic() - began

    def diagnosis(self) -> str:
        said = [
            self.inside("docker", "ps", "--all", "--format", "{{.Names}} {{.Status}}"),
            self.inside("journalctl", "--no-pager", "--lines=40", f"--unit={UNIT}"),
            self.inside("tail", "--lines=5", f"{DIRECTORY}/history.jsonl"),
        ]
        return "\n".join(done.stdout + done.stderr for done in said)

    def ill(self) -> list[str]:
        """Return the containers that are not up and healthy."""
        shown = self.inside("docker", "ps", "--all", "--filter", f"label=com.docker.compose.project={PROJECT}", "--format", "{{.Names}} {{.Status}}")
        jobs = ("bootstrap", "migrate", "retire", "volume")
        lines = [line for line in shown.stdout.splitlines() if not any(job in line for job in jobs)]
        return [line for line in lines if "(healthy)" not in line] if lines else ["nothing"]

    def serves(self) -> bool:
        """Return whether the page and the api answer, and every container is healthy."""
        ask = "import sys, urllib.request\nfor url in sys.argv[1:]:\n    urllib.request.urlopen(url, timeout=2)"
        urls = [f"http://127.0.0.1:{self.ports['frontend']}{path}" for path in ("/", "/api/health/ready")]
        return not self.ill() and self.inside("python3", "-c", ask, *urls).returncode == 0

    def reboot(self, *, crash: bool = False) -> None:
        """End the machine, as somebody who shuts it down does or as somebody who pulls the plug, and start it again."""
        docker(*(("kill", NAME) if crash else ("stop", "--time=100", NAME)))
        docker("start", NAME)

    def kill_engine(self) -> None:
        """End the Engine without a word. Its unit starts it again."""
        self.inside("sh", "-c", "kill -9 $(pidof dockerd)")


def remove() -> None:
    docker("rm", "--force", "--volumes", NAME)
