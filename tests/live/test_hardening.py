# SPDX-License-Identifier: GPL-3.0-or-later
"""A prod stack is confined: what the Engine was told, and what the kernel makes of it inside every container."""

import re

import pytest

SERVICES = ["api", "frontend", "minio", "page", "postgres", "redis", "rules-engine", "scheduler"]
JOBS = ["api-migrate", "minio-bootstrap", "minio-retire", "minio-volume", "postgres-bootstrap", "redis-bootstrap", "redis-retire"]
USERS = {
    "api": "10001:10001",
    "frontend": "101:101",
    "minio": "1000:1000",
    "page": "101:101",
    "postgres": "999:999",
    "redis": "999:1000",
    "rules-engine": "10002:10002",
    "scheduler": "10003:10003",
}
# Where a service may write beside /tmp.
WRITABLE = {
    "minio": {"/data"},
    "page": {"/usr/share/nginx/html/retained"},
    "postgres": {"/var/lib/postgresql", "/run/postgresql", "/var/run/postgresql"},
    "redis": {"/data"},
}
NETWORKS = {
    "api": {"backend-network", "frontend-network"},
    "frontend": {"frontend-network"},
    "minio": {"backend-network"},
    "page": {"frontend-network"},
    "postgres": {"backend-network"},
    "redis": {"backend-network"},
    "rules-engine": {"backend-network"},
    "scheduler": {"backend-network"},
}
# The Engine's default of 10 s ends in SIGKILL, in the middle of a checkpoint or of a snapshot.
GRACE = {"postgres": 90, "redis": 60, "minio": 60}
TMPFS = {"noexec", "nosuid", "nodev"}
# What the Engine mounts in every container for the kernel's own files; they belong to root.
OF_THE_KERNEL = re.compile(r"/(proc|sys|dev)(/(?!shm$)|$)")
by_service = pytest.mark.parametrize("service", SERVICES)


def inside(host, service: str, script: str, user: str | None = None) -> str:
    """Return what a shell in the container prints, errors included."""
    done = host.execute(service, "sh", "-c", f"{{ {script}\n}} 2>&1", check=False, user=user)
    return done.stdout.decode()


def statuses(host, service: str) -> list[dict[str, str]]:
    """Return /proc/PID/status of every process of the container, as the kernel of the host has it."""
    pids = host.text("docker", "top", host.containers[service]["Id"], "-eo", "pid").split()[1:]
    texts = host.run("cat", *(f"/proc/{pid}/status" for pid in pids), check=False).stdout.decode()
    return [dict(re.findall(r"^(\w+):\t(.*)$", text, re.MULTILINE)) for text in re.split(r"^(?=Name:)", texts, flags=re.MULTILINE) if text]


def cgroup(host, service: str, *names: str) -> str | None:
    """Return the first of the files of the container's cgroup that is there: cgroup v2 and v1 call them differently."""
    text = inside(host, service, "; ".join(f"cat /sys/fs/cgroup/{name} && exit" for name in names))
    found = [line for line in text.splitlines() if not line.startswith("cat:")]
    return found[0] if found else None


def mounts(host, service: str) -> list[tuple[str, str, set[str]]]:
    """Return target, type and options of every mount of the container but the kernel's own."""
    lines = [line.split() for line in inside(host, service, "cat /proc/1/mounts").splitlines()]
    return [(line[1], line[2], set(line[3].split(","))) for line in lines if not OF_THE_KERNEL.match(line[1])]


def test_the_stack_is_what_these_tests_know(host):
    assert sorted(host.services) == SERVICES
    assert sorted(host.compose["services"]) == sorted(SERVICES + JOBS)


@by_service
def test_it_runs_as_its_own_user_from_the_first_process_on(host, service):
    assert host.containers[service]["Config"]["User"] == USERS[service]
    uid, gid = USERS[service].split(":")
    found = statuses(host, service)
    assert found
    # Real, effective, saved and file system id.
    assert {tuple(status["Uid"].split()) for status in found} == {(uid,) * 4}
    assert {tuple(status["Gid"].split()) for status in found} == {(gid,) * 4}


@by_service
def test_no_process_has_a_capability_or_may_gain_one(host, service):
    settings = host.containers[service]["HostConfig"]
    assert settings["CapDrop"] == ["ALL"]
    assert not settings["CapAdd"]
    assert not settings["Privileged"]
    assert "no-new-privileges:true" in settings["SecurityOpt"]
    for status in statuses(host, service):
        assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert status["NoNewPrivs"] == "1"
        # 2 is a filter: the Engine's default profile.
        assert status["Seccomp"] == "2"


@by_service
def test_the_container_s_own_first_process_says_the_same(host, service):
    text = inside(host, service, "cat /proc/1/status")
    assert re.search(r"^CapEff:\t0{16}$", text, re.MULTILINE), text
    assert re.search(r"^NoNewPrivs:\t1$", text, re.MULTILINE), text


@by_service
def test_the_root_file_system_is_read_only_even_to_root(host, service):
    assert host.containers[service]["HostConfig"]["ReadonlyRootfs"]
    # Root owns /, so it needs no capability to write there: what refuses is the mount.
    answer = inside(host, service, "for name in / /etc /usr /run; do touch $name/probe; done", user="0:0")
    assert answer.count("Read-only file system") == 4, answer


@by_service
def test_what_can_be_written_is_listed_and_nothing_there_can_be_executed(host, service):
    writable = {target for target, _kind, options in mounts(host, service) if "rw" in options}
    assert writable - WRITABLE.get(service, set()) == {"/tmp", "/dev/shm"}
    settings = host.containers[service]["HostConfig"]["Tmpfs"]
    assert "/tmp" in settings
    for target, options in settings.items():
        assert set(options.split(",")) >= TMPFS, target
        assert re.search(r"(^|,)size=\d+[km]?(,|$)", options), target
    for target, kind, options in mounts(host, service):
        if kind == "tmpfs" and "rw" in options:
            assert options >= TMPFS, target
            assert any(option.startswith("size=") for option in options), target
    answer = inside(host, service, "cp /bin/true /tmp/probe && chmod 0755 /tmp/probe && /tmp/probe; rm /tmp/probe")
    assert "Permission denied" in answer, answer


@by_service
def test_memory_cpu_and_processes_are_limited_by_the_kernel(host, service):
    settings = host.containers[service]["HostConfig"]
    assert settings["Memory"] > 0
    assert settings["MemorySwap"] == settings["Memory"], "the service could swap"
    assert 0 < settings["MemoryReservation"] < settings["Memory"]
    assert settings["NanoCpus"] > 0
    assert settings["CpuShares"] > 0
    assert settings["PidsLimit"] > 0

    assert cgroup(host, service, "memory.max", "memory/memory.limit_in_bytes") == str(settings["Memory"])
    assert cgroup(host, service, "pids.max", "pids/pids.max") == str(settings["PidsLimit"])
    quota = cgroup(host, service, "cpu.max", "cpu/cpu.cfs_quota_us").split()[0]
    assert int(quota) == settings["NanoCpus"] // 10_000
    if host.info["SwapLimit"]:
        allowed = cgroup(host, service, "memory.swap.max", "memory/memory.memsw.limit_in_bytes")
        # v2 counts swap alone, v1 memory and swap together.
        assert allowed in ("0", str(settings["Memory"]))


@by_service
def test_it_leaves_no_core_dump(host, service):
    assert re.search(r"^Max core file size +0 +0 ", inside(host, service, "cat /proc/1/limits"), re.MULTILINE)


@by_service
def test_it_starts_stops_and_logs_as_it_should(host, service):
    container = host.containers[service]
    settings = container["HostConfig"]
    assert settings["RestartPolicy"]["Name"] == "unless-stopped"
    assert settings["Init"] is True
    assert inside(host, service, "cat /proc/1/comm").strip() in ("docker-init", "tini")
    assert container["Config"]["StopTimeout"] == GRACE.get(service, 15)
    assert settings["LogConfig"]["Type"] == "json-file"
    assert settings["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}
    assert container["State"]["Health"]["Status"] == "healthy"


@by_service
def test_it_shares_no_namespace_and_no_device_with_the_host(host, service):
    settings = host.containers[service]["HostConfig"]
    assert settings["IpcMode"] == "private"
    assert [settings[name] for name in ("PidMode", "UTSMode", "UsernsMode")] == ["", "", ""]
    assert not settings["Devices"]
    assert settings["NetworkMode"].startswith(f"{host.project}_")


@by_service
def test_it_is_on_its_own_networks_only(host, service):
    attached = set(host.containers[service]["NetworkSettings"]["Networks"])
    assert attached == {f"{host.project}_{name}" for name in NETWORKS[service]}


def test_the_backend_is_internal(host):
    assert set(host.networks) == {"backend-network", "frontend-network"}
    backend = host.networks["backend-network"]
    assert backend["Internal"]
    # And the kernel of the host drops what is not between its members.
    bridge, subnet = f"br-{backend['Id'][:12]}", backend["IPAM"]["Config"][0]["Subnet"]
    rules = host.text("iptables-save", "-t", "filter")
    assert re.search(rf"^-A \S+ ! -d {re.escape(subnet)} -i {bridge} -j DROP$", rules, re.MULTILINE), rules


def test_only_the_frontend_is_published(host, is_tls):
    published = {
        service: {port for port, bindings in container["NetworkSettings"]["Ports"].items() if bindings} for service, container in host.containers.items()
    }
    assert {service: ports for service, ports in published.items() if ports} == {"frontend": {"8080/tcp", "8443/tcp"} if is_tls else {"8080/tcp"}}


@by_service
def test_it_mounts_nothing_of_the_host_but_its_own_files(host, service):
    for mount in host.containers[service]["Mounts"]:
        if mount["Type"] == "bind":
            own = tuple(f"{host.directory}/{path}" for path in ("config/", f"secrets/{service}_", f"secrets/stable/{service}_", f"routes/{service}"))
            assert mount["Source"].startswith(own), mount
            assert not mount["RW"], mount
        else:
            assert (mount["Type"], mount["Name"]) == ("volume", f"{host.project}_{service}-{'assets' if service == 'page' else 'data'}"), mount


@by_service
def test_its_secrets_are_its_own_and_read_only(host, service):
    secrets = [mount for mount in host.containers[service]["Mounts"] if mount["Destination"].startswith("/run/secrets/")]
    for mount in secrets:
        # A name that stays is a link, and what is mounted is what it stands for.
        assert host.text("stat", "--dereference", "--format=%u:%g %a", mount["Source"]).strip() == f"{USERS[service]} 400"
    assert host.text("stat", "--format=%u:%g %a", f"{host.directory}/secrets").strip() == "0:0 700"


@pytest.mark.parametrize("job", JOBS)
def test_a_job_is_confined_like_a_service(host, job):
    # A job has done its work when a test comes, so this is what it is made from; the benchmark's tests look at its container.
    settings = host.compose["services"][job]
    assert settings["profiles"] == ["job"]
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    if job == "minio-volume":
        # It gives a new volume to MinIO's user, and can do nothing else.
        assert (settings["cap_add"], settings["user"], settings["network_mode"]) == (["CHOWN"], "0:0", "none")
    else:
        assert "cap_add" not in settings
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", settings["user"])
        assert set(settings["networks"]) == {"backend-network"}
    assert settings["init"] is True
    assert settings["restart"] == "no"
    assert settings["pids_limit"] > 0
    assert "ports" not in settings
    resources = settings["deploy"]["resources"]
    assert float(resources["limits"]["cpus"]) > 0
    assert int(resources["limits"]["memory"]) == int(settings["memswap_limit"])
    assert int(resources["reservations"]["memory"]) > 0
    assert all(set(entry.partition(":")[2].split(",")) >= TMPFS for entry in settings["tmpfs"])
    assert settings["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
