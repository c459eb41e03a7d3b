# SPDX-License-Identifier: GPL-3.0-or-later
"""Every secret of the running stack is looked for in every place where it must not stand, in every spelling that gives it away.

Each place has a leak planted for it right before it is searched, a canary of its own that the same search has to find: a probe that is
blind fails as one that sees a secret does. Secrets reach the host on standard input only, so that no search is a leak or finds itself.

LIVE_DEPLOY  the command that deploys this stack again, a JSON list such as ["ansible-playbook", "-i", "inventory", "site.yml"]
"""

import base64
import hashlib
import http.server
import json
import os
import secrets
import signal
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

# What is searched is what the script prints. P is the project, D the stack's directory, C the canary, N the place's name.
PREAMBLE = r"""
set -u
export LC_ALL=C H=~root
labels() { echo --filter "label=campaign.leak-probe=$P"; }
containers() { docker ps --all --quiet --filter "label=com.docker.compose.project=$P"; docker ps --all --quiet $(labels); }
running() { docker ps --quiet --filter "label=com.docker.compose.project=$P"; docker ps --quiet $(labels); }
pids() { docker inspect --format '{{.State.Pid}}' $(running); }
service() { docker ps --quiet --filter "label=com.docker.compose.project=$P" --filter "label=com.docker.compose.service=$1"; }
images() { docker inspect --format '{{.Image}}' $(containers) | sort -u; docker images --quiet --no-trunc $(labels); }
data_root() { docker info --format '{{.DockerRootDir}}'; }
volume() { docker volume inspect --format '{{.Mountpoint}}' "${P}_$1"; }
# Names, link targets and contents.
show() { find "$@" -printf '%p %l\n'; find "$@" -type f -exec cat {} +; }
release() { mkdir -p "$D/releases/leak-probe" && cp "$D"/current/. "$D/releases/leak-probe" --recursive; }
compose() {
  for release in "$D"/releases/*/; do
    docker compose --project-directory "$D" --env-file "$release/.env" $(for file in "$release"/docker-compose*.yml; do echo --file "$file"; done) \
      --profile '*' config "$@"
  done
}
start() {
  docker run --detach --name "$P-leak-probe-$N" --label "campaign.leak-probe=$P" --network none --entrypoint sh "$@" > /dev/null
}
image() { docker inspect --format '{{.Image}}' "$(service frontend)"; }
psql() { docker exec "$(service postgres)" sh -c 'exec psql --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" "$@"' psql "$@"; }
"""
CLEAN = (
    PREAMBLE
    + r"""
containers=$(docker ps --all --quiet $(labels)); [ -z "$containers" ] || docker rm --force --volumes $containers
images=$(docker images --quiet $(labels)); [ -z "$images" ] || docker rmi --force $images
volumes=$(docker volume ls --quiet $(labels)); [ -z "$volumes" ] || docker volume rm $volumes
networks=$(docker network ls --quiet $(labels)); [ -z "$networks" ] || docker network rm $networks
rm -rf "$D/releases/leak-probe"
"""
)
# The search gets its patterns from the third descriptor; bash's own printf shows them to no process list.
SEARCH = r"""
patterns=$(cat)
exec 3>&1
# grep exits 1 where there is nothing to find.
bash -c "$1" leak-probe < /dev/null 2> /dev/null | LC_ALL=C grep --text --only-matching --fixed-strings --file=<(printf '%s\n' "$patterns") | sort -u
exit 0
"""


@dataclass(frozen=True)
class Place:
    """A place of the host: what is searched, how, and how a leak is planted there and removed."""

    name: str
    what: str
    probe: str
    plant: str
    clean: str = ""
    # Secrets that are known to stand there, with the reason in docs/leak-probes.md. One that no longer does is an error too.
    keeps: tuple[str, ...] = ()


def file(name: str, what: str, path: str, probe: str | None = None) -> Place:
    """Return a place where a leak is a file."""
    return Place(name, what, probe or f'show "$(dirname "{path}")" -xdev', f'mkdir -p "$(dirname "{path}")" && echo "$C" > "{path}"', f'rm -f "{path}"')


PLACES = [
    Place("container-inspect", "`docker inspect` of every container", "docker inspect $(containers)", 'start --env LEAK="$C" $(image) -c "sleep 600"'),
    Place(
        "container-definition",
        "`config.v2.json` and `hostconfig.json` below the Engine's data root",
        'for id in $(containers); do cat "$(data_root)/containers/$id"*/*.json; done',
        'start --env LEAK="$C" $(image) -c "sleep 600"',
    ),
    Place(
        "container-diff", "`docker diff` of every container", "for id in $(containers); do docker diff $id; done", 'start $(image) -c "touch /tmp/$C"; sleep 1'
    ),
    Place(
        "image-inspect",
        "`docker inspect` of every image",
        "docker inspect $(images)",
        'tar -cT /dev/null | docker import -c "LABEL campaign.leak-probe=$P leak=$C" -',
    ),
    Place(
        "image-history",
        "`docker history` of every image",
        "for id in $(images); do docker history --no-trunc $id; done",
        'tar -cT /dev/null | docker import -c "LABEL campaign.leak-probe=$P" -m "$C" -',
    ),
    Place(
        "image-layers",
        "every layer of every image",
        "docker save $(images)",
        'd=$(mktemp -d); echo "$C" > "$d/leak"; tar -C "$d" -c . | docker import -c "LABEL campaign.leak-probe=$P" -; rm -r "$d"',
    ),
    Place(
        "volume-inspect",
        "`docker volume inspect`",
        'docker volume inspect $(docker volume ls --quiet --filter "label=com.docker.compose.project=$P") $(docker volume ls --quiet $(labels))',
        'docker volume create --label "campaign.leak-probe=$P" --label "leak=$C"',
    ),
    Place(
        "network-inspect",
        "`docker network inspect`",
        'docker network inspect $(docker network ls --quiet --filter "label=com.docker.compose.project=$P") $(docker network ls --quiet $(labels))',
        'docker network create --internal --label "campaign.leak-probe=$P" --label "leak=$C" "$P-leak-probe"',
    ),
    Place("process-environments", "the environment of every process of the host", "cat /proc/[0-9]*/environ", 'start --env LEAK="$C" $(image) -c "sleep 600"'),
    Place("process-arguments", "the arguments of every process of the host", "cat /proc/[0-9]*/cmdline", 'start $(image) -c "sleep 600; : $C"'),
    Place(
        "compose-config",
        "`docker compose config` of every release kept",
        "compose",
        'release; echo "x-leak: $C" >> "$D/releases/leak-probe/docker-compose.yml"',
    ),
    Place(
        "compose-config-as-written",
        "`docker compose config --no-interpolate` of every release kept",
        "compose --no-interpolate",
        'release; echo "x-leak: $C" >> "$D/releases/leak-probe/docker-compose.yml"',
    ),
    Place(
        "compose-files",
        "the Compose files of every release kept",
        'cat "$D"/releases/*/*.yml',
        'release; echo "# $C" >> "$D/releases/leak-probe/docker-compose.yml"',
    ),
    Place(
        "environment-files", "`.env` of every release kept", 'cat "$D"/releases/*/.env "$D/.env"', 'release; echo "LEAK=$C" >> "$D/releases/leak-probe/.env"'
    ),
    Place(
        "manifests",
        "`manifest.json` of every release kept",
        'cat "$D"/releases/*/manifest.json',
        'release; echo "$C" >> "$D/releases/leak-probe/manifest.json"',
    ),
    file("config-files", "the configuration files that containers mount", "$D/config/leak-probe"),
    file("stack-directory", "everything in the stack's directory but `secrets/`", "$D/leak-probe", 'show "$D" -path "$D/secrets" -prune -o -true'),
    Place(
        "secret-names",
        "the names of the secret files",
        'find "$D/secrets" -printf "%p\\n"',
        'touch "$D/secrets/leak-probe-$C"',
        'rm -f "$D"/secrets/leak-probe-*',
    ),
    Place(
        "service-logs", "`docker logs` of every container", "for id in $(containers); do docker logs $id 2>&1; done", 'start $(image) -c "echo $C >&2"; sleep 1'
    ),
    Place(
        "log-files",
        "the log files of every container on disk",
        'for id in $(containers); do cat "$(data_root)/containers/$id"*/*.log*; done',
        'start $(image) -c "echo $C"; sleep 1',
    ),
    Place(
        "health-logs",
        "what every health check printed",
        'docker inspect --format "{{json .State.Health}}" $(containers)',
        'start --health-cmd "echo $C" --health-interval 1s $(image) -c "sleep 600"; sleep 2',
    ),
    Place(
        "engine-events",
        "`docker events`",
        'docker events --since 1h --until "$(($(date +%s) + 1))"',
        'docker volume create --label "campaign.leak-probe=$P" "$C"',
    ),
    Place(
        "writable-layers",
        "the writable layer of every container",
        'for d in $(docker inspect --format "{{.GraphDriver.Data.UpperDir}}" $(containers)); do show "$d"; done',
        'start $(image) -c "echo $C > /tmp/leak; sleep 600"; sleep 1',
    ),
    Place(
        "temporary-file-systems",
        "`/tmp`, `/dev/shm` and `/run` of every container, but `/run/secrets`",
        'for pid in $(pids); do for d in tmp dev/shm run var/run/; do show "/proc/$pid/root/$d" -path "*/run/secrets" -prune -o -true; done; done',
        'start --tmpfs /tmp $(image) -c "echo $C > /tmp/leak; sleep 600"; sleep 1',
    ),
    Place(
        "mount-tables",
        "the mounts of every container",
        "for pid in $(pids); do cat /proc/$pid/mountinfo; done",
        'start --tmpfs "/tmp/$C" $(image) -c "sleep 600"',
    ),
    Place(
        "served-files",
        "the files that the frontend serves",
        "for pid in $(pids); do show /proc/$pid/root/usr/share/nginx/html; done",
        'start --user 0 $(image) -c "echo $C > /usr/share/nginx/html/leak; sleep 600"; sleep 1',
    ),
    Place(
        "postgres-data",
        "PostgreSQL's files, its write-ahead log among them",
        'show "$(volume postgres-data)"',
        """psql -c "CREATE TABLE leak_probe AS SELECT '$C' AS leak" -c CHECKPOINT""",
        'psql -c "DROP TABLE IF EXISTS leak_probe"',
    ),
    Place("postgres-log", "PostgreSQL's log", "docker logs $(service postgres) 2>&1", """psql -c "SET log_statement = 'all'" -c "SELECT '$C'" """),
    Place(
        "postgres-catalogue",
        "PostgreSQL's roles, settings, comments and activity",
        'for t in pg_authid pg_settings pg_shdescription pg_stat_activity pg_db_role_setting; do psql -c "TABLE $t"; done',
        """psql -c "COMMENT ON ROLE pg_monitor IS '$C'" """,
        'psql -c "COMMENT ON ROLE pg_monitor IS NULL"',
    ),
    file("redis-data", "Redis' snapshot and append-only files", "$(volume redis-data)/leak-probe"),
    Place(
        "minio-data",
        "MinIO's objects and settings",
        'show "$(volume minio-data)"',
        'echo "$C" > "$(volume minio-data)/leak-probe"',
        'rm -f "$(volume minio-data)/leak-probe"',
        keeps=("s3_access_key", "s3_secret_key"),
    ),
    file("histories", "the histories of shells and clients", "$H/.leak_probe_history", "cat $H/.*hist* $H/.*/*hist* /home/*/.*hist*"),
    file("root-home", "root's home", "$H/.leak-probe", "show /root -xdev -path $H/.cache -prune -o -path $H/go -prune -o -size -16M"),
    file("temporary-files", "`/tmp` and `/var/tmp`", "/var/tmp/leak-probe", "show /tmp /var/tmp -xdev -size -16M"),
    file("ansible-temporary-files", "Ansible's directories in every home", "$H/.ansible/tmp/leak-probe", "show $H/.ansible /home/*/.ansible -xdev"),
    file("ansible-async-files", "the results of asynchronous tasks", "$H/.ansible_async/leak-probe", "show $H/.ansible_async /home/*/.ansible_async"),
    file("system-logs", "`/var/log`, the journal and the Engine's log among it", "/var/log/leak-probe.log"),
    file("core-dumps", "core dumps and crash reports", "/var/crash/leak-probe", "show /var/crash /var/lib/systemd/coredump /core* $D/core*"),
    file("shared-memory", "the host's shared memory", "/dev/shm/leak-probe"),
    file("host-settings", "`/etc`", "/etc/leak-probe"),
    file("client-settings", "the Docker client's settings and buildx' state", "$H/.docker/leak-probe", "show $H/.docker"),
    Place(
        "runtime-bundles",
        "what the container runtime was given",
        'show /run/containerd /run/docker /var/run/docker -name "*.json"',
        'start --env LEAK="$C" $(image) -c "sleep 600"',
    ),
    Place(
        "engine-state",
        "the Engine's own databases: networks, volumes, image names, swarm, the builder's",
        'show "$(data_root)"/network "$(data_root)"/swarm "$(data_root)"/buildkit "$(data_root)"/volumes/metadata.db "$(data_root)"/image/*/repositories.json'
        " -size -64M",
        'docker network create --internal --label "campaign.leak-probe=$P" --label "leak=$C" "$P-leak-probe-state"',
    ),
]


def spellings(value: str) -> dict[str, str]:
    """Return each spelling of a secret that gives it away, by what it is called."""
    raw = value.encode()
    found = {
        "as it is": value,
        "percent-encoded": urllib.parse.quote(value, safe=""),
        "as encodeURIComponent has it": urllib.parse.quote(value, safe="!'()*"),
        "in JSON": json.dumps(value)[1:-1],
        "in JSON with its own letters": json.dumps(value, ensure_ascii=False)[1:-1],
        "in JSON within JSON": json.dumps(json.dumps(value)[1:-1])[1:-1],
        "in single quotes": value.replace("'", "''"),
        "in hexadecimal": raw.hex(),
        "as its SHA-256": hashlib.sha256(raw).hexdigest(),
        "as its SHA-1": hashlib.sha1(raw).hexdigest(),
        "as its MD5": hashlib.md5(raw).hexdigest(),
    }
    # The three alignments; the characters that share bits with a neighbour are left away.
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + raw + b"\0" * (-(shift + len(raw)) % 3)).decode()
        start, end = (shift * 8 + 5) // 6, (shift + len(raw)) * 8 // 6
        found[f"in base64, shifted by {shift}"] = text[start:end]
    return found


def patterns_of(values: dict[str, str]) -> dict[bytes, str]:
    """Return what to look for, and what a find is called. Each line of a value is looked for by itself."""
    found: dict[bytes, str] = {}
    for name, value in values.items():
        for spelling, text in spellings(value).items():
            for line in text.splitlines():
                # The armour of a PEM file is the same in all of them.
                if len(line) >= 8 and not line.startswith("-----"):
                    found.setdefault(line.encode(), f"{name}, {spelling}")
    return found


@pytest.fixture(scope="session")
def patterns(stack_secrets) -> dict[bytes, str]:
    found = patterns_of(stack_secrets)
    assert len(found) >= 8 * len(stack_secrets), "there are secrets to look for"
    return found


@pytest.fixture
def canary() -> str:
    return f"leak{secrets.token_hex(12)}"


def judge(place: str, found: set[bytes], patterns: dict[bytes, str], canary: str, keeps: tuple[str, ...] = ()) -> None:
    """Fail where the planted leak was not found, or anything but it was; show no value."""
    seen = {patterns[item] for item in found if item in patterns}
    is_seeing = any(canary.encode() in item for item in found)
    assert is_seeing, f"{place}: the probe did not find the leak that was planted for it"
    kept = {f"{name}, as it is" for name in keeps}
    assert not seen - kept, f"{place} shows {'; '.join(sorted(seen - kept))}"
    assert not kept - seen, f"{place} does not hold {'; '.join(sorted(kept - seen))} any more: take it from the known ones"


def on_host(host, script: str, place: Place, canary: str, stdin: bytes | None = None):
    """Run a script on the host. The canary stands in the arguments of what plants it, never in those of the search."""
    variables = {"P": host.project, "D": host.directory, "N": place.name} | ({"C": canary} if stdin is None else {})
    text = "".join(f"{name}='{value}'\n" for name, value in variables.items()) + PREAMBLE + script
    if stdin is None:
        return host.run("bash", "-c", text, check=False, timeout=120)
    return host.run("bash", "-c", SEARCH, "leak-probe", text, stdin=stdin, timeout=180)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_no_secret_stands_in(host, patterns, canary, place):
    lines = b"\n".join([*patterns, canary.encode()])
    try:
        on_host(host, place.plant, place, canary)
        found = set(on_host(host, place.probe, place, canary, stdin=lines).stdout.splitlines())
    finally:
        on_host(host, place.clean + CLEAN, place, canary)
    judge(place.name, found, patterns, canary, place.keeps)


def test_there_are_enough_places():
    names = [place.name for place in PLACES] + list(CONTROLLER)
    assert len(names) == len(set(names)) >= 40
    assert [place.name for place in PLACES if not place.plant.strip()] == []


def test_a_secret_file_has_one_consumer(host):
    listed = host.text("find", f"{host.directory}/secrets", "-printf", "%y %m %U:%G %P|%l\\n").splitlines()
    rows = [line.split(" ", 3) for line in listed]
    # A job owns the directory with the earlier generations of its file, and sees no other.
    directories = {name.removesuffix("|"): (mode, owner) for kind, mode, owner, name in rows if kind == "d"}
    given = {path: found for path, found in directories.items() if path.startswith("earlier/") and path.count("/") == 2}
    assert {found for path, found in directories.items() if path not in given} == {("700", "0:0")}
    assert {mode for mode, _owner in given.values()} == {"500"}
    files = [(kind, mode, owner, name.removesuffix("|")) for kind, mode, owner, name in rows if kind not in "dl"]
    assert files
    for _kind, _mode, owner, name in files:
        if name.startswith("earlier/"):
            assert directories[name.rpartition("/")[0]][1] == owner, name
    owners = {name.rpartition("/")[2]: (kind, mode, owner) for kind, mode, owner, name in files}
    links = dict(name.split("|") for kind, _mode, _owner, name in rows if kind == "l")
    assert set(links) == {"stable/postgres_postgres_password", "stable/redis_redis_acl"}
    mounted = []
    for service, container in host.containers.items():
        for mount in container["Mounts"]:
            if mount["Destination"].startswith("/run/secrets/"):
                source = mount["Source"].removeprefix(f"{host.directory}/secrets/")
                name = links.get(source, source).rpartition("/")[2]
                assert name.startswith(f"{service}_"), f"{service} sees {name}"
                assert owners[name] == ("f", "400", container["Config"]["User"]), name
                assert not mount["RW"], name
                mounted.append(name)
    assert mounted
    assert len(mounted) == len(set(mounted))
    assert [name for name, (kind, mode, _owner) in owners.items() if (kind, mode) != ("f", "400")] == []


def search(text: bytes, patterns: dict[bytes, str], canary: str) -> set[bytes]:
    """Return what is found in a text of this machine."""
    return {pattern for pattern in [*patterns, canary.encode()] if pattern in text}


# What a person gets to see on the machine that Ansible runs on.
CONTROLLER = {
    "frontend-answers": "what the frontend and the api answer to right and wrong requests, headers included",
    "deploy-output": "the output of `site.yml -vvv --diff`",
    "check-output": "the output of `site.yml --check --diff -vvv`",
    "failed-deploy-output": "the output of a deploy that fails, at `-vvv --diff`",
    "ansible-log": "the file of `ANSIBLE_LOG_PATH`",
    "fact-cache": "the directory of a `jsonfile` fact cache",
    "killed-run": "the temporary directories of Ansible and Python after a run killed in the middle",
    "controller-arguments": "the arguments of every process of the controller while a deploy runs",
    "controller-environments": "the environment of every process of the controller while a deploy runs",
}
# The name of the api's account at MinIO, which mc takes as an argument and in no other way; docs/leak-probes.md says more.
ACCOUNT = "s3_access_key,"
REQUESTS = [
    ("GET", "/", None),
    ("GET", "/assets/", None),
    ("GET", "/healthz", None),
    ("GET", "/nowhere", None),
    ("GET", "/.env", None),
    ("GET", "/api/status", None),
    ("GET", "/api/health/ready", None),
    ("GET", "/api/nowhere", None),
    ("GET", "/api/campaigns/no-id", None),
    ("POST", "/api/auth/login", b'{"username": "operator", "password": "wrong"}'),
    ("POST", "/api/auth/login", b"no JSON"),
    ("POST", "/api/campaigns", b"{}"),
    ("POST", "/api/internal/probe", b"{}"),
]


def answers_of(base: str) -> bytes:
    """Return every answer of a server as one text."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    text = b""
    parts = urllib.parse.urlsplit(base)
    # A name that is not in the DNS goes with the request only.
    address = os.environ.get("LIVE_ADDRESS") if parts.hostname != "127.0.0.1" else None
    base = parts._replace(netloc=parts.netloc.replace(str(parts.hostname), address)).geturl() if address else base
    for method, path, body in REQUESTS:
        headers = {"Content-Type": "application/json", "Host": parts.netloc}
        request = urllib.request.Request(f"{base.rstrip('/')}{path}", body, headers, method=method)
        try:
            answer = urllib.request.urlopen(request, timeout=10, context=context)
        except urllib.error.HTTPError as error:
            answer = error
        text += str(answer.headers).encode() + answer.read()
    return text


def test_no_answer_shows_a_secret(url, patterns, canary):
    class Leaking(http.server.BaseHTTPRequestHandler):
        """Shows the canary in an error, as a careless server would."""

        def do_GET(self):
            self.send_error(500, explain=canary)

        do_POST = do_GET

        def log_message(self, *_arguments):
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Leaking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = search(b"".join(answers_of(base) for base in (url, f"http://127.0.0.1:{server.server_port}")), patterns, canary)
        server.shutdown()
    judge("frontend-answers", found, patterns, canary)


@dataclass
class Controller:
    """Runs of Ansible whose every trace is kept below one private directory."""

    directory: Path
    canary: str

    @property
    def environment(self) -> dict[str, str]:
        for name in ("tmp", "facts", "ansible"):
            (self.directory / name).mkdir(exist_ok=True)
        return os.environ | {
            "ANSIBLE_LOG_PATH": str(self.directory / "log"),
            "ANSIBLE_CACHE_PLUGIN": "jsonfile",
            "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(self.directory / "facts"),
            "ANSIBLE_LOCAL_TEMP": str(self.directory / "ansible"),
            "ANSIBLE_RETRY_FILES_ENABLED": "true",
            "ANSIBLE_RETRY_FILES_SAVE_PATH": str(self.directory / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
            # Without it -vvv shows no module's arguments.
            "ANSIBLE_INJECT_INVOCATION": "true",
            "TMPDIR": str(self.directory / "tmp"),
        }

    def run(self, name: str, command: list[str], seconds: float | None = None) -> int:
        """Run a command, look at all processes meanwhile, and kill it after so many seconds."""
        deadline = time.monotonic() + seconds if seconds else None
        with (
            (self.directory / name).open("ab") as output,
            (self.directory / "controller-arguments").open("ab") as arguments,
            (self.directory / "controller-environments").open("ab") as environments,
        ):
            process = subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
            seen: set[bytes] = set()
            while process.poll() is None:
                if deadline and time.monotonic() >= deadline:
                    os.killpg(process.pid, signal.SIGKILL)
                for target, kind in ((arguments, "cmdline"), (environments, "environ")):
                    for path in Path("/proc").glob(f"[0-9]*/{kind}"):
                        try:
                            content = path.read_bytes()
                        except OSError:
                            continue
                        if content not in seen:
                            seen.add(content)
                            target.write(content + b"\n")
                time.sleep(0.05)
        return process.returncode

    def text(self, *names: str) -> bytes:
        """Return what was kept under these names."""
        paths = [path for name in names for path in [self.directory / name, *(self.directory / name).rglob("*")]]
        return b"\n".join(str(path).encode() + b"\n" + path.read_bytes() for path in paths if path.is_file())


@pytest.fixture(scope="session")
def controller(tmp_path_factory) -> Controller:
    made = Controller(tmp_path_factory.mktemp("controller"), f"leak{secrets.token_hex(12)}")
    deploy = json.loads(os.environ["LIVE_DEPLOY"])
    assert made.run("deploy-output", [*deploy, "-vvv", "--diff"]) == 0
    assert made.run("check-output", [*deploy, "-vvv", "--diff", "--check"]) == 0
    # A release of its own that has no time to become healthy.
    failing = ["-e", json.dumps({"stack_health_timeout": 1, "stack_scheduler_tick_seconds": 7})]
    assert made.run("failed-deploy-output", [*deploy, "-vvv", "--diff", *failing]) != 0
    # Killed at several moments of staging the way back, then left to finish it.
    for moment in (2, 4, 6):
        made.run("killed-output", deploy, seconds=moment)
    assert made.run("last-output", deploy) == 0
    # The same traces of a play that leaks.
    play = made.directory / "leak.yml"
    leak = {"module": "ansible.builtin.command", "argv": ["sh", "-c", f"sleep 1; : {made.canary}"]}
    tasks = [
        {"ansible.builtin.debug": {"msg": made.canary}},
        {"ansible.builtin.set_fact": {"leak": made.canary, "cacheable": True}},
        {"action": leak, "environment": {"LEAK": made.canary}},
    ]
    play.write_text(json.dumps([{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}]))
    for name in ("deploy-output", "check-output", "failed-deploy-output"):
        assert made.run(name, ["ansible-playbook", "-i", "localhost,", str(play), "-vvv"]) == 0
    (made.directory / "tmp/leak").write_text(made.canary)
    return made


@pytest.mark.parametrize("place", [name for name in CONTROLLER if name != "frontend-answers"])
def test_no_run_shows_a_secret(controller, patterns, place):
    names = {"ansible-log": ["log"], "fact-cache": ["facts"], "killed-run": ["tmp", "ansible", "killed-output"]}.get(place, [place])
    sought = {pattern: called for pattern, called in patterns.items() if not (place == "controller-arguments" and called.startswith(ACCOUNT))}
    judge(place, search(controller.text(*names), sought, controller.canary), sought, controller.canary)


@pytest.mark.usefixtures("controller")
@pytest.mark.parametrize("place", [place for place in PLACES if "temporary" in place.name], ids=lambda place: place.name)
def test_a_killed_run_leaves_no_secret_on_the_host(host, patterns, canary, place):
    test_no_secret_stands_in(host, patterns, canary, place)
