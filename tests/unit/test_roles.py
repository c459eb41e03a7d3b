# SPDX-License-Identifier: GPL-3.0-or-later
"""House rules of the roles that ansible-lint does not know."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.parent.parent for path in ROOT.glob("roles/*/tasks/main.yml"))
by_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)

# What has side effects that Ansible cannot see, hides a failure, or carries state from one step to another.
FORBIDDEN_MODULES = {"shell", "raw", "pause", "lineinfile", "set_fact", "include_vars"}
# The stack's own client is told which run calls it, and a module of another collection has no option for that.
ALLOWED_KEYS = {"stack/tasks/guarded.yml": frozenset(["environment"])}
FORBIDDEN_KEYS = {"ignore_errors", "ignore_unreachable", "environment"}
# Vars hold data, and expressions of one step; what decides or assembles is Python that an import reaches.
EXPRESSION = re.compile(r"\{\{(.*?)\}\}|\{%(.*?)%\}", re.DOTALL)
LONGEST, MOST_IFS = 120, 1


class Loader(yaml.SafeLoader):
    """Reads Ansible's own tags as what they stand on."""


Loader.add_multi_constructor("!", lambda loader, _suffix, node: loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None)


def load(path: Path):
    return yaml.load(path.read_text(), Loader) if path.exists() else None  # Loader is a SafeLoader


def files_of(role: Path, folder: str) -> list[Path]:
    return sorted((role / folder).rglob("*.yml"))


def tasks_in(entries: list | None) -> Iterator[dict]:
    for entry in entries or []:
        yield entry
        for section in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers"):
            yield from tasks_in(entry.get(section))


def named_tasks(role: Path) -> list[tuple[Path, dict]]:
    return [(path, task) for folder in ("tasks", "handlers") for path in files_of(role, folder) for task in tasks_in(load(path))]


def specs_of(role: Path) -> dict:
    return (load(role / "meta/argument_specs.yml") or {"argument_specs": {}})["argument_specs"]


def options_of(role: Path) -> dict:
    return {name: option for entry in specs_of(role).values() for name, option in (entry.get("options") or {}).items()}


def texts_in(value, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in data, with the key that it stands under."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from texts_in(item, str(name))
    elif isinstance(value, list):
        for item in value:
            yield from texts_in(item, key)
    elif isinstance(value, str):
        yield key, value


def expressions_in(value) -> Iterator[str]:
    """Yield the expressions in data: what stands in braces, and a condition, which stands in none."""
    for key, text in texts_in(value):
        if key == "that":
            yield text
        else:
            yield from (output or statement for output, statement in EXPRESSION.findall(text))


def steps_too_many(expression: str) -> str | None:
    """Return what is too much in an expression, or None."""
    if len(expression.strip()) > LONGEST:
        return f"{len(expression.strip())} characters"
    ifs = len(re.findall(r"\bif\b", expression))
    return f"{ifs} ifs" if ifs > MOST_IFS else None


def where(path: Path, task: dict) -> str:
    return f"{path.relative_to(ROOT)}: {task.get('name')}"


def test_there_are_roles():
    assert ROLES


@by_role
def test_argument_specs_and_defaults_hold_the_same_variables(role):
    options, defaults = options_of(role), load(role / "defaults/main.yml") or {}
    optional = {name for name, option in options.items() if not option.get("required")}
    # An option without a default may be left out, so it is undefined or computed; every default is an option.
    assert set(defaults) - optional == set(), "in defaults/main.yml, but no optional argument of the role"
    assert {name for name in optional if "default" in options[name]} - set(defaults) == set(), "has a default in the argument specs only"
    for name, option in options.items():
        computed = isinstance(defaults.get(name), str) and "{{" in defaults[name]
        if name in defaults and not computed:
            assert option.get("default") == defaults[name], f"{name}: the two defaults differ"


@by_role
def test_every_argument_is_described_and_typed(role):
    assert "main" in specs_of(role)
    for entry in specs_of(role).values():
        assert entry.get("short_description")
    options = options_of(role)
    assert [name for name, option in options.items() if not option.get("description") or not option.get("type")] == []
    assert [name for name, option in options.items() if option.get("required") and "default" in option] == []
    assert [name for name, option in options.items() if option["type"] == "list" and not option.get("elements")] == []


@by_role
def test_variables_carry_the_name_of_their_role(role):
    public, private = f"{role.name}_", f"__{role.name}_"
    assert [name for name in options_of(role) if not name.startswith(public)] == []
    assert [name for name in load(role / "defaults/main.yml") or {} if not name.startswith(public)] == []
    for path in files_of(role, "vars"):
        assert [name for name in load(path) or {} if not name.startswith((public, private))] == [], path.relative_to(ROOT)
    for path, task in named_tasks(role):
        registered = [task.get("register"), (task.get("loop_control") or {}).get("loop_var"), (task.get("loop_control") or {}).get("index_var")]
        assert all(name is None or name.startswith(private) for name in registered), where(path, task)
        if not any("_role" in key for key in task):
            # How a task connects is Ansible's own to name.
            assert all(name.startswith((private, "ansible_")) for name in task.get("vars") or {}), where(path, task)


@by_role
def test_a_task_is_named_after_its_file(role):
    for path, task in named_tasks(role):
        assert "name" in task, f"{path.relative_to(ROOT)}: a task without a name"
        # ansible-lint wants none in main.yml, where Ansible prints the role's name.
        stem = "" if path.stem == "main" else f"{path.relative_to(role / path.relative_to(role).parts[0]).with_suffix('')} | "
        assert re.match(re.escape(stem) + r"[A-Z][^|]*$", task["name"], re.DOTALL), where(path, task)


@by_role
def test_tasks_do_nothing_that_cannot_be_predicted_or_seen(role):
    for path, task in named_tasks(role):
        modules = {key.rpartition(".")[2] for key in task}
        assert not modules & FORBIDDEN_MODULES, where(path, task)
        assert not (set(task) - ALLOWED_KEYS.get(f"{role.name}/{path.relative_to(role)}", frozenset())) & FORBIDDEN_KEYS, where(path, task)
        for module in ("ansible.builtin.command", "command"):
            if module in task:
                assert isinstance(task[module], dict), f"{where(path, task)}: give argv"
                assert "argv" in task[module], where(path, task)


@by_role
def test_main_and_apply_are_tables_of_contents(role):
    imports = ("ansible.builtin.import_tasks", "ansible.builtin.include_tasks", "ansible.builtin.import_role", "block")
    for path in [path for name in ("main", "apply") if (path := role / f"tasks/{name}.yml").exists()]:
        assert len(path.read_text().splitlines()) <= 50
        assert [where(path, task) for task in tasks_in(load(path)) if not set(task) & set(imports)] == []


@by_role
def test_a_role_knows_no_group_and_no_other_role(role):
    others = "|".join(re.escape(other.name) for other in ROLES if other != role)
    foreign = re.compile(rf"\bgroups\[|\bgroup_names\b|\bhostvars\b|\binventory_hostname\b|(?<![\w.])(__)?({others})_[a-z]\w*")
    for path in [path for folder in ("defaults", "vars", "tasks", "handlers", "templates") for path in (role / folder).rglob("*") if path.is_file()]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = None if line.lstrip().startswith("#") else foreign.search(line)
            assert not found, f"{path.relative_to(ROOT)}:{number}: {found and found.group()}"


@by_role
def test_facts_are_read_from_ansible_facts(role):
    injected = re.compile(r"(?<![\w.'\"\[])ansible_(distribution|os_family|architecture|service_mgr|memtotal|mounts|virtualization|env|user|default_ipv4)\w*")
    for folder in ("defaults", "vars", "tasks", "handlers", "templates"):
        for path in (path for path in (role / folder).rglob("*") if path.is_file()):
            assert not injected.search(path.read_text()), path.relative_to(ROOT)


def test_every_playbook_task_has_a_name():
    # Without the file's stem, which ansible-lint understands in roles only.
    for path in sorted((ROOT / "playbooks").glob("*.yml")):
        for play in load(path):
            assert "name" in play, path
            for task in tasks_in([play]):
                if task is not play:
                    assert re.match(r"[A-Z][^|]*$", task.get("name", "")), where(path, task)


def test_playbook_names_can_be_called_by_their_full_name():
    assert [path.name for path in (ROOT / "playbooks").glob("*.y*ml") if not re.fullmatch(r"[a-z][a-z0-9_]*\.yml", path.name)] == []


def variables_in(group) -> Iterator[str]:
    """The variables that stand among the hosts of an inventory's group."""
    for key, value in (group or {}).items():
        if key == "vars":
            yield from value
        elif key == "hosts":
            for host in value.values():
                yield from host or {}
        else:
            yield from variables_in(value)


def test_inventories_hold_hosts_and_variables_apart():
    inventories = sorted((ROOT / "inventories").glob("*/hosts.yml"))
    assert inventories
    for path in inventories:
        assert list(variables_in(load(path))) == [], path.relative_to(ROOT)


@pytest.mark.parametrize("path", [path for folder in ("playbooks", "molecule", "tests") for path in sorted((ROOT / folder).rglob("*.yml"))], ids=str)
def test_who_applies_a_role_has_validated_it(path):
    plays = load(path)
    for play in plays if isinstance(plays, list) else []:
        validated = set()
        for task in tasks_in([play]):
            role = task.get("ansible.builtin.import_role") or task.get("ansible.builtin.include_role") or {}
            entry = role.get("tasks_from", "main.yml").removesuffix(".yml")
            assert entry != "apply" or role["name"] in validated, f"{where(path, task)} applies a role that is not validated before in the same play"
            if entry == "validate":
                validated.add(role["name"])


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("a", None),
        ("a if b else c", None),
        ("x" * 120, None),
        ("x" * 121, "121 characters"),
        ("a if b else c if d else e", "2 ifs"),
        (" if a %}{{ b if c else d }}{% ", "2 ifs"),
    ],
)
def test_an_expression_of_more_than_one_step_is_seen(expression, told):
    assert steps_too_many(expression) == told


def test_expressions_are_found_wherever_they_stand():
    data = {"a": ["x{{ one }}y{{ two }}"], "b": {"that": "three", "c": "{% if four %}z{% endif %}"}}
    assert [text.strip() for text in expressions_in(data)] == ["one", "two", "three", "if four", "endif"]


@by_role
def test_variables_hold_data_and_expressions_of_one_step(role):
    found = [
        f"{path.relative_to(ROOT)}: {told}: {' '.join(expression.split())[:90]}"
        for folder in ("vars", "defaults")
        for path in files_of(role, folder)
        for expression in expressions_in(load(path))
        if (told := steps_too_many(expression))
    ]
    assert found == []


def test_there_is_no_program_in_jinja():
    assert not (ROOT / "plugins/filter").exists()
    assert not (ROOT / "plugins/test").exists()
    # Reads a file of the controller for inventories.
    assert sorted(path.name for path in (ROOT / "plugins/lookup").glob("*.py")) == ["env_file.py"]


@by_role
def test_every_private_variable_that_is_read_is_there(role):
    texts = {
        path: path.read_text() for folder in ("defaults", "vars", "tasks", "handlers", "templates") for path in (role / folder).rglob("*") if path.is_file()
    }
    defined = {name for path in files_of(role, "vars") for name in load(path) or {}}
    for _path, task in named_tasks(role):
        control = task.get("loop_control") or {}
        defined |= {task.get("register"), control.get("loop_var"), control.get("index_var"), *(task.get("vars") or {})}
    undefined = {
        f"{path.relative_to(ROOT)}: {name}"
        for path, text in texts.items()
        for name in re.findall(rf"(?<![\w.])__{role.name}_\w+", re.sub(r"^\s*#.*", "", text, flags=re.MULTILINE))
        if name not in defined
    }
    assert undefined == set()


@by_role
def test_main_validates_first(role):
    imported = [task.get("ansible.builtin.import_tasks") for task in load(role / "tasks/main.yml")]
    assert imported[0] == "validate.yml"
    if (role / "tasks/apply.yml").exists():
        # Used alone, a role gathers the facts itself; in a playbook of several roles one step gathers those of all.
        assert [name for name in imported if name != "facts.yml"] == ["validate.yml", "apply.yml"]


def test_compose_is_called_without_the_environment_of_the_caller():
    """Whatever module calls Docker Compose for a stack, it calls the stack's own client, and takes no option from the environment."""
    role = ROOT / "roles/stack"
    defaults = {}
    for task in tasks_in(load(role / "tasks/guarded.yml")):
        defaults |= task.get("module_defaults", {})
    called = {key for _path, task in named_tasks(role) for key in task if key.startswith("community.docker.")}
    assert len(called) > 1
    for module in called:
        given = defaults[module]
        assert given["docker_cli"] == "{{ stack_directory }}/client/docker", module
        assert (given["docker_host"], given["api_version"], given["tls"], given["validate_certs"]) == ("unix:///var/run/docker.sock", "auto", False, False)


@pytest.mark.parametrize("scenario", sorted(path.parent for path in ROOT.glob("molecule/*/molecule.yml")), ids=lambda scenario: scenario.name)
def test_no_step_of_a_scenario_registers_a_name_of_its_inventory(scenario):
    variables = {name for folder in ("group_vars", "host_vars") for path in (scenario / "inventory" / folder).rglob("*.yml") for name in load(path) or {}}
    files = [path for path in scenario.rglob("*.yml") if "inventory" not in path.parts and path.name != "molecule.yml"]
    steps = [task for path in files for task in tasks_in(load(path))]

    assert steps
    assert {task["register"] for task in steps if "register" in task} & variables == set()
