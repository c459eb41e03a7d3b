# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrong input is an error that names the variable and the remedy, shows no secret, and comes before anything is touched.

One run has a host for each case. Their connection lets nothing through, so that what is not refused shows as unreachable. Wrong values
that a message of their own answers share a host; each is looked for in one line of what the run says.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from json import loads
from pathlib import Path

import program
import pytest
import yaml
from ansible_collections.campaign.platform.plugins.plugin_utils import ports, release

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
_spec = importlib.util.spec_from_file_location("cases", HERE / "cases.py")
table = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(table)

OPTIONS = {
    path.parts[-3]: {name: option for entry in yaml.safe_load(path.read_text())["argument_specs"].values() for name, option in entry.get("options", {}).items()}
    for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml"))
}
# The playbook computes these, and nobody's inventory sets them: a role's parameters win. The other roles have their own cases of them.
COMPUTED = {"stack_images", "images_required", "images_definitions", "images_places", "docker_host_ports", "docker_host_project"}
# And this is of the role images' own making: references, which are not looked at a second time.
HANDED_ON = {"stack_images"}
DEPLOYED = ("stack", "images", "docker_host")
ALONE = ("images", "docker_host", "bundle", "backup", "upgrade_postgres")
# Whose variables a playbook of their own takes.
BY_THEMSELVES = ("backup", "upgrade_postgres")
PROJECT = "campaign-bad-input"
SECRETS = {name: f"{table.CANARY}-{name.replace('_', '-')}-of-the-test" for name in table.SECRETS}
TLS = {"stack_tls_certificate": table.CERTIFICATE, "stack_server_name": table.NAME, "with_secrets": {"tls_private_key": table.KEY}}


@dataclass(frozen=True)
class Wrong:
    """A host's variables, and for each of its wrong values the names and the remedy that stand in one line of the message."""

    group: str
    variables: dict
    told: list[tuple[tuple[str, ...], str]]


def alone(variables: dict, name: str, remedy: str, group: str = "campaign") -> Wrong:
    return Wrong(group, variables, [((name,), remedy)])


def wrong_types() -> Iterator[Wrong]:
    """Every variable of a role with a value of a wrong type at once."""
    for role in DEPLOYED:
        checked = {name: table.WRONG_TYPES[option["type"]] for name, option in OPTIONS[role].items() if name not in COMPUTED}
        for number in range(max(map(len, checked.values()))):
            chosen = {name: wrong[number] for name, wrong in checked.items() if number < len(wrong)}
            yield Wrong("campaign", {name: value for name, (value, _) in chosen.items()}, [((name,), remedy) for name, (_, remedy) in chosen.items()])
    for role in BY_THEMSELVES:
        for name, option in OPTIONS[role].items():
            for value, remedy in table.WRONG_TYPES[option["type"]]:
                yield alone({name: value}, name, remedy, f"{role}_alone")


def wrong_ports() -> Iterator[Wrong]:
    names = [f"stack_{name.lower()}" for name in table.PORTS]
    for value, remedy in table.WRONG_PORTS.items():
        yield Wrong("campaign", dict.fromkeys(names, value), [((name,), remedy) for name in names])
    # A round of a tournament has every name but one, in pairs.
    count = len(table.PORTS)
    for odd in range(count):
        pairs = [((odd + step) % count, (odd - step) % count) for step in range(1, count // 2 + 1)]
        ports = {names[one]: 20000 + number for number, pair in enumerate(pairs) for one in pair} | {names[odd]: 20099}
        yield Wrong("campaign", TLS | ports, [((table.PORTS[one], table.PORTS[other]), "Give each its own") for one, other in pairs])


def wrong_secrets() -> Iterator[Wrong]:
    for value, remedy in table.WRONG_SECRETS:
        yield Wrong("campaign", {"with_secrets": dict.fromkeys(table.SECRETS, value)}, [((name,), remedy) for name in table.SECRETS])
    nul = dict.fromkeys(table.WITHOUT_NUL, f"{table.CANARY}\0{table.CANARY}")
    yield Wrong("campaign", {"with_secrets": nul}, [((name,), "without NUL") for name in nul])
    for changed, name, remedy in table.SECRET_VALUES:
        yield alone({"with_secrets": changed}, name, remedy)
    for changed, name, remedy in table.WEAK_SECRETS:
        yield alone({"stack_variant": "prod", "with_secrets": changed}, name, remedy)


HOSTS = [
    *wrong_types(),
    *wrong_ports(),
    *wrong_secrets(),
    *(alone(variables, name, remedy) for variables, name, remedy in table.VALUES),
    *(alone({"stack_services": services}, name, remedy) for services, name, remedy in table.SERVICES),
    *(alone({"env_local_text": text}, name, remedy) for text, name, remedy in table.ENV_LOCAL),
    *(alone(variables, name, remedy, f"{role}_alone") for role, variables, name, remedy in table.ROLES),
]
CASES = [(number, names, remedy) for number, wrong in enumerate(HOSTS) for names, remedy in wrong.told]


class _Vaulted(str):
    """A text that YAML tags as encrypted."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, _data):
        return True


_Dumper.add_representer(_Vaulted, lambda dumper, text: dumper.represent_scalar("!vault", text, style="|"))


def encrypted(directory: Path) -> dict[str, str]:
    """A text encrypted with a password that no run is given, whole and with a piece missing."""
    (directory / "lost").write_text("lost")
    command = ["ansible-vault", "encrypt_string", "--vault-password-file", str(directory / "lost"), f"{table.CANARY}-encrypted"]
    text = subprocess.run(command, check=True, capture_output=True, text=True, cwd=directory).stdout
    lines = [line.strip() for line in text.splitlines()[1:]]
    return {"right": "\n".join([*lines, ""]), "broken": "\n".join([lines[0], lines[1][:40], ""])}


def prepared(wrong: Wrong, directory: Path, number: int, vaults: dict[str, str]) -> dict:
    """A case's variables as they stand in the inventory."""

    def tagged(value):
        if isinstance(value, dict):
            return _Vaulted(vaults[value["__ansible_vault"]]) if "__ansible_vault" in value else {key: tagged(inner) for key, inner in value.items()}
        return value

    given = {"stack_variant": "local", "bundle_images": {"redis": ""}, "images_required": ["redis"]}
    given |= {"backup_directory": "/opt/campaign", "backup_project": PROJECT, "backup_image": "restic:1", "backup_repository": "/srv/sets"}
    given |= {"upgrade_postgres_directory": "/opt/campaign", "upgrade_postgres_project": PROJECT, "upgrade_postgres_image": "postgis:18"}
    variables = given | {"backup_password": "of-the-test-and-long"} | wrong.variables
    variables = {name: tagged(value) for name, value in variables.items() if value != table.MISSING}
    if (changed := variables.pop("with_secrets", None)) is not None:
        variables["stack_secrets"] = {name: value for name, value in (SECRETS | changed).items() if value is not None}
    if (text := variables.pop("env_local_text", None)) is not None:
        file = directory / f"{number}.env"
        file.write_text(text + "\n")
        variables["stack_env_local"] = "{{ lookup('campaign.platform.env_file', '" + str(file) + "') }}"
    return variables


def common(host: Path) -> dict:
    return {
        "ansible_connection": "refusing",
        "stack_project": PROJECT,
        "stack_directory": str(host / "stack"),
        "images_source": "pull",
        "images_upstream": {key: f"registry.example.com/{key}:1" for key in ("api", "dev", "frontend", "rules-engine", "scheduler")},
        "images_state_directory": str(host / "images"),
        "stack_secrets": SECRETS,
    }


def play(directory: Path, *arguments: str, playbooks: tuple[str, ...] = ("site.yml",)) -> subprocess.CompletedProcess[str]:
    env = os.environ | {
        "ANSIBLE_CONNECTION_PLUGINS": str(HERE / "plugins/connection"),
        "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "plugins/callback"),
        "ANSIBLE_CALLBACKS_ENABLED": "outcomes",
        "ANSIBLE_STRATEGY": "free",
        "ANSIBLE_FORKS": "3",
        "ANSIBLE_NOCOLOR": "1",
        "OUTCOMES": str(directory / "outcomes"),
    }
    command = ["ansible-playbook", "-vvv", "--diff", "-i", str(directory / "hosts.yml"), *playbooks, *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=540)


def described(path: Path) -> tuple:
    """What there is to say of one file or directory, its content included."""
    found = path.lstat()
    content = ""
    if stat.S_ISLNK(found.st_mode):
        content = str(path.readlink())
    elif stat.S_ISREG(found.st_mode):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    return (oct(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns, found.st_size, content)


def snapshot(*places: Path) -> dict[str, tuple]:
    """The places on the host with all that is below them, and what the Engine has of the project."""
    found = {str(path): described(path) for place in places if place.exists() for path in (place, *place.rglob("*"))}
    if shutil.which("docker"):
        label = f"label=com.docker.compose.project={PROJECT}"
        for kind in (["ps", "--all", "--no-trunc"], ["network", "ls", "--no-trunc"], ["volume", "ls"]):
            for chosen in (label, f"name={PROJECT}"):
                done = subprocess.run(["docker", *kind, "--quiet", "--filter", chosen], capture_output=True, text=True)
                found[f"{kind[0]} {chosen}"] = (done.returncode, done.stdout)
    return found


def planted(host: Path) -> tuple[Path, ...]:
    """Put a stack and a record of its images on the host, and say where a deploy would write."""
    release = host / "stack/releases/1"
    release.mkdir(parents=True)
    (release / "docker-compose.yml").write_text("services: {}\n")
    (host / "stack/current").symlink_to("releases/1")
    (host / "stack/secrets").mkdir(mode=0o700)
    (host / "stack/secrets/jwt_secret").write_text("as it was\n")
    (host / "stack/secrets/jwt_secret").chmod(0o400)
    (host / "images").mkdir()
    (host / "images/source").write_text("build\n")
    (host / "generated").mkdir()
    return (host, Path("/etc/docker"), Path("/etc/apt"), Path("/opt/campaign"), Path("/var/lib/campaign-images"))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict:
    directory, host = tmp_path_factory.mktemp("input"), tmp_path_factory.mktemp("host")
    vaults = encrypted(directory)
    groups = {group: {"hosts": {}, "vars": common(host)} for group in ("campaign", *(f"{role}_alone" for role in ALONE))}
    for group, content in groups.items():
        content["hosts"][f"good_{group}"] = prepared(Wrong(group, {}, []), directory, 0, vaults)
    for number, taken in enumerate(table.TAKEN):
        groups["campaign"]["hosts"][f"taken{number}"] = prepared(Wrong("campaign", taken, []), directory, number, vaults)
    for number, wrong in enumerate(HOSTS):
        groups[wrong.group]["hosts"][f"case{number}"] = prepared(wrong, directory, number, vaults)
    (directory / "hosts.yml").write_text(yaml.dump(groups, Dumper=_Dumper, sort_keys=False))
    (directory / "password").write_text("another")
    places = planted(host)
    before = snapshot(*places)
    password = ("--vault-password-file", str(directory / "password"))
    runs = [play(directory, *password, playbooks=(playbook,)) for playbook in ("tests/integration/input/roles.yml", "site.yml")]
    lines = [loads(line) for line in (directory / "outcomes").read_text().splitlines()]
    by_host: dict[str, list[dict]] = {}
    for line in lines:
        by_host.setdefault(line["host"], []).append(line)
    output = "".join(done.stdout + done.stderr for done in runs)
    return {"of": by_host, "output": output, "status": [done.returncode for done in runs], "before": before, "after": snapshot(*places)}


def is_about(line: str, name: str) -> bool:
    return re.search(rf"(?<![\w/-]){re.escape(name)}(?!\w)", line) is not None


@pytest.mark.parametrize(("number", "names", "remedy"), CASES, ids=[f"{number}-{'-'.join(names)}" for number, names, _ in CASES])
def test_wrong_input_is_refused_by_name(outcomes, number, names, remedy):
    lines = outcomes["of"][f"case{number}"]
    assert lines[-1]["outcome"] == "failed", lines
    # All that ran looked at the variables, on the controller.
    assert {line["action"] for line in lines} == {"campaign.platform.validate"}
    assert {line["task"].split(" : ")[1].split(" | ")[0] for line in lines} == {"validate"}
    message = lines[-1]["message"]
    assert message.startswith("Nothing was changed. Fix these first:\n- "), message
    told = [line for line in message.split("\n- ")[1:] if all(is_about(line, name) for name in names)]
    assert any(remedy in line for line in told), message
    assert table.CANARY not in message


def test_no_secret_shows_in_the_most_verbose_output(outcomes):
    secret = [table.CANARY, *table.KEY.splitlines()[1:-1], *table.OTHER_KEY.splitlines()[1:-1]]
    found = [line for line in outcomes["output"].splitlines() if any(text in line for text in secret)]
    assert found == []
    assert 0 not in outcomes["status"]


def test_the_host_is_as_it_was(outcomes):
    assert outcomes["after"] == outcomes["before"]
    assert len([name for name in outcomes["before"] if "/stack/" in name]) == 6


@pytest.mark.parametrize(
    "change",
    [
        lambda file: os.truncate(file, 0),
        lambda file: (file.write_text("is it was\n"), os.utime(file, ns=(0, 0))),
        lambda file: file.chmod(0o440),
        lambda file: os.utime(file),
        lambda file: file.unlink(),
        lambda file: (file.parent / "new").touch(),
        lambda file: (file.parent / "new").mkdir(),
        lambda file: ((file.parent / "link").unlink(), (file.parent / "link").symlink_to("other")),
    ],
    ids=["emptied", "other bytes", "mode", "time", "removed", "new file", "new directory", "link"],
)
def test_a_changed_host_is_seen(tmp_path, change):
    file = tmp_path / "file"
    file.write_text("as it was\n")
    (tmp_path / "link").symlink_to("file")
    os.utime(file, ns=(0, 0))
    os.utime(tmp_path, ns=(0, 0))
    before = snapshot(tmp_path)
    assert snapshot(tmp_path) == before
    change(file)
    assert snapshot(tmp_path) != before


@pytest.mark.parametrize("host", ["good_campaign", *(f"taken{number}" for number in range(len(table.TAKEN)))])
def test_right_input_passes_every_validation_and_then_reaches_for_the_host(outcomes, host):
    *validated, reached = outcomes["of"][host]
    assert {line["outcome"] for line in validated} == {"ok"}, validated
    assert [line["message"] for line in validated[:3]] == ["Nothing is wrong."] * 3
    assert reached["outcome"] == "unreachable"


def test_right_input_of_a_role_alone_passes(outcomes):
    for role in ALONE:
        assert [line["outcome"] for line in outcomes["of"][f"good_{role}_alone"]] == ["ok"]


def test_every_variable_has_a_case():
    named = {name for wrong in HOSTS for name in wrong.variables}
    assert {name for options in OPTIONS.values() for name in options} - named - HANDED_ON == set()
    assert len(CASES) >= 150
    assert len(HOSTS) >= 150


def test_every_secret_has_a_case():
    """The names are spelled a second time in the cases, so that a secret that the catalogue no longer derives is missed."""
    assert sorted(program.secret_names()) == sorted(table.SECRETS)


def test_every_port_clashes_with_every_other():
    given = {"stack_secrets": SECRETS | {"tls_private_key": table.KEY}, "stack_tls_certificate": table.CERTIFICATE, "stack_server_name": table.NAME}
    declared, renderer, problems = program.declare(given)
    assert problems == []
    services = release.render(declared, renderer, release.image_names(declared)).services()
    assert sorted(setting for *_, setting in ports.published(services, declared.settings)) == sorted(table.PORTS)
    clashes = {frozenset(names) for _, names, _ in CASES if len(names) == 2}
    assert clashes == {frozenset(pair) for pair in combinations(table.PORTS, 2)}


def vault(directory: Path, change=lambda text: text) -> None:
    folder = directory / "group_vars/campaign"
    folder.mkdir(parents=True)
    file = folder / "vault.yml"
    file.write_text(f"stack_secrets: {{jwt_secret: {table.CANARY}}}")
    (directory / "right").write_text("right")
    (directory / "wrong").write_text("wrong")
    subprocess.run(["ansible-vault", "encrypt", "--vault-password-file", str(directory / "right"), str(file)], check=True, capture_output=True)
    file.write_text(change(file.read_text()))


ONE = "campaign: {hosts: {a: }}"
# What stops a run before or without the validation of all hosts: an inventory (or what it takes to get one), arguments, playbook, words.
LOADED = {
    "no YAML": ("hosts: [", (), "site.yml", ["hosts.yml"]),
    "no group": ("elsewhere: {hosts: {a: }}", (), "site.yml", ["group campaign", "Add one"]),
    "no host": (ONE, ("--limit", "nowhere"), "site.yml", ["limit"]),
    "no file of variables": (
        f"campaign: {{hosts: {{a: {{stack_secrets: {{jwt_secret: {table.CANARY}}}}}}}}}",
        ("-e", "@/nowhere/vault.yml"),
        "site.yml",
        ["/nowhere/vault.yml"],
    ),
    "vault without password": (ONE, (), "site.yml", ["vault", "ecrypt"]),
    "vault with another password": (ONE, ("--vault-password-file", "{}/wrong"), "site.yml", ["Decryption failed", "vault"]),
    "broken vault": (ONE, ("--vault-password-file", "{}/right"), "site.yml", ["Vault vaulttext format error"]),
    "vault of another cipher": (ONE, ("--vault-password-file", "{}/right"), "site.yml", ["Cipher 'ROT13'"]),
    "lock_images": (None, ("-e", "docker_host_log_max_file=0", "-e", "images_lock_file=/nowhere"), "lock_images", ["docker_host_log_max_file", "1 to 1000"]),
    "lock_images of what": (None, ("-e", "images_prefix=Campaign/", "-e", "images_lock_file=/nowhere"), "lock_images", ["images_prefix", "campaign/"]),
    "bundle": (None, ("-e", "bundle_directory=relative"), "bundle", ["bundle_directory", "Begin it with /"]),
    "init_secrets": (None, ("-e", "stack_vault_file=relative/vault.yml"), "init_secrets", ["stack_vault_file"]),
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> dict[str, str]:
    """The output of every run, two at a time."""

    def run(name: str) -> str:
        inventory, arguments, playbook, _ = LOADED[name]
        directory = tmp_path_factory.mktemp("loaded")
        text = inventory or yaml.dump({"campaign": {"hosts": {"a": common(directory / "host") | {"stack_variant": "local"}}}})
        (directory / "hosts.yml").write_text(text)
        if "broken" in name:
            vault(directory, lambda encrypted: encrypted[: len(encrypted) // 2])
        elif "cipher" in name:
            vault(directory, lambda encrypted: encrypted.replace("AES256", "ROT13"))
        elif "vault" in name:
            vault(directory)
        given = [argument.format(directory) for argument in arguments]
        place = playbook if playbook.endswith(".yml") else f"campaign.platform.{playbook}"
        # The connection of the play would be the machine itself.
        done = play(directory, *given, "-e", "ansible_connection=refusing", playbooks=(place,))
        assert not (directory / "host").exists()
        return f"status {done.returncode}\n{done.stdout}{done.stderr}"

    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(LOADED, pool.map(run, LOADED), strict=True))


@pytest.mark.parametrize("name", LOADED)
def test_what_cannot_be_loaded_stops_the_run(loaded, name):
    output = loaded[name]
    assert not output.startswith("status 0")
    for word in LOADED[name][3]:
        assert word in output
    assert table.CANARY not in output
    assert "unreachable=1" not in output
