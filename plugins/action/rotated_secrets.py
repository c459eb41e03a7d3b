# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Give secrets new values in the places where they come from. The deploy that follows puts them in force."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.campaign.platform.plugins.module_utils import host
from ansible_collections.campaign.platform.plugins.plugin_utils import declaration, generated, inputs, rotation
from ansible_collections.campaign.platform.plugins.plugin_utils.env_file import parse_env

_WRITTEN = (
    "From here on they are what a deploy brings. Whatever ends this run before it has: deploy, or rotate again. "
    'Where the deploy says "Nothing was changed", it speaks of the host.'
)
# The new file beside the old one. Neither git nor Ansible's group_vars take it for one of theirs.
_BESIDE = ".new-"
# No run takes as long from writing it to giving it its name.
_LEFT_SECONDS = 600
_BY_HAND = "Set the new value there, and deploy."
_WRITABLE = "A rotation writes a new file beside it and gives that its name, with its mode and its owner: see that whoever deploys may do that."


class Writing:
    """A file that is there gets another text, whole, with the mode and the owner that it has. Whatever stands against it shows before anything is written."""

    def __init__(self, path: str, text: str):
        self.path = os.path.realpath(path)
        try:
            self.temporary = self._prepared(text)
        except OSError as error:
            raise inputs.RefusedError(f"Nothing was changed. {path} cannot be replaced: {error.strerror}. {_WRITABLE}") from None

    def _prepared(self, text: str) -> str:
        if host.is_mount(self.path):
            raise OSError(errno.EBUSY, "it is a mount of its own")
        was = os.stat(self.path)
        descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(self.path), prefix=f"{os.path.basename(self.path)}{_BESIDE}")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fchmod(file.fileno(), stat.S_IMODE(was.st_mode))
                if (was.st_uid, was.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), was.st_uid, was.st_gid)
                os.fsync(file.fileno())
        except BaseException:
            os.unlink(temporary)
            raise
        return temporary

    def __call__(self) -> None:
        """Put it in the place of the other one."""
        os.replace(self.temporary, self.path)
        self._tidy()

    def _tidy(self) -> None:
        # What a run left that was killed between the two. Another one may be at work right now.
        with os.scandir(os.path.dirname(self.path)) as entries:
            beside = [entry for entry in entries if entry.name.startswith(f"{os.path.basename(self.path)}{_BESIDE}")]
        for entry in beside:
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_mtime < time.time() - _LEFT_SECONDS:
                    os.unlink(entry.path)

    def drop(self) -> None:
        """Leave all as it was."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.temporary)


class Places:
    """Where secrets come from: how each is written, and how a person knows it. Whatever is wrong with one shows before any is written."""

    def __init__(self, declared: declaration.Declaration, arguments: Mapping[str, Any], given: Any):
        # ``given`` is stack_secrets as the inventory has it, with its expressions.
        self.declared, self.arguments, self.given = declared, arguments, given
        self.names: dict[str, str] = {}
        self.writers: list[Callable[[], None]] = []
        self.vault: dict[str, Any] = {}

    def env_local(self, values: Mapping[str, str]) -> None:
        """Prepare to change the lines of .env.local."""
        path = os.path.abspath(self.arguments["env_local"])
        try:
            with open(path, encoding="utf-8", newline="") as file:
                text = file.read()
            is_it = parse_env(text) == dict(self.declared.arguments["stack_env_local"])
        except (OSError, ValueError):
            is_it = False
        if not is_it:
            raise inputs.RefusedError(
                f"Nothing was changed. {', '.join(values)}: {path} is not the file that stack_env_local comes from. Name it in rotate_secrets_env_local."
            )
        self.names[rotation.ENV_LOCAL] = path
        changed = rotation.changed_env(text, values)
        if parse_env(changed) != {**parse_env(text), **values}:
            raise inputs.RefusedError(f"Nothing was changed. The lines of {path} cannot be changed one by one. Set {', '.join(values)} by hand, and deploy.")
        self.writers.append(Writing(path, changed))

    def inventory(self, values: Mapping[str, str]) -> None:
        """Prepare to change the mapping in the vault."""
        path = os.path.abspath(self.arguments["vault"])
        given = self.declared.arguments["stack_secrets"]
        listed = ", ".join(values)
        if not os.path.isfile(path):
            raise inputs.RefusedError(
                f"Nothing was changed. {listed}: there is no file {path}. Name the vault of your secrets in stack_vault_file, or: {_BY_HAND}"
            )
        text, encrypt = inputs.vault_text(path)
        variables = [self.arguments["variable"], "stack_secrets"]
        # What no rotation has written yet may come from an expression's default.
        known = {name: given[name] for name in values if name in given and (name, given[name]) != (rotation.KEYS_BEFORE, rotation.NO_KEYS)}
        if alone := rotation.encrypted(text, variables, list(values)):
            raise inputs.RefusedError(
                f"Nothing was changed. {', '.join(alone)}: {path} has each encrypted by itself (!vault). Write the new value with "
                "`ansible-vault encrypt_string` in its place, and deploy."
            )
        variable = rotation.holds(text, variables, known)
        if variable is None:
            raise inputs.RefusedError(f"Nothing was changed. {listed}: {path} does not hold them in {' or '.join(variables)}. {_BY_HAND}")
        # One expression takes what is added along.
        by_name = isinstance(self.given, Mapping) and variable != "stack_secrets"
        if rotation.KEYS_BEFORE in values and rotation.KEYS_BEFORE not in given and by_name:
            raise inputs.RefusedError(
                f"Nothing was changed. stack_secrets names its values one by one, and {rotation.KEYS_BEFORE}, which keeps people signed in, is not among them. "
                f"Add it: {rotation.KEYS_BEFORE}: \"{{{{ {variable}.{rotation.KEYS_BEFORE} | default('{rotation.NO_KEYS}') }}}}\"."
            )
        try:
            changed = rotation.changed_yaml(text, variable, values)
        except rotation.RotationError as error:
            raise inputs.RefusedError(f"Nothing was changed. {path}: {error} Change {listed} with `ansible-vault edit`, and deploy.") from None
        self.names[rotation.INVENTORY] = f"{path}; commit it"
        self.vault = {"vault": path, "variable": variable, "vaulted": list(values)}
        self.writers.append(Writing(path, encrypt(changed)))

    def generated(self, values: Mapping[str, str]) -> None:
        """Prepare to change the file of the generated secrets."""
        path = self.declared.arguments["stack_generated_secrets_file"]
        self.names[rotation.GENERATED] = path
        self.writers.append(lambda: generated.replace(path, values))


class ActionModule(ActionBase):
    """See modules/rotated_secrets.py."""

    _requires_connection = False
    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write the new values, or say why not."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        spec = {
            "names": {"type": "list", "elements": "str", "required": True},
            "env_local": {"type": "path", "required": True},
            "vault": {"type": "path", "required": True},
            "variable": {"type": "str", "default": "vault_stack_secrets"},
            "keep_sessions": {"type": "bool", "default": True},
        }
        _validation, arguments = self.validate_argument_spec(spec)
        variables = task_vars or {}
        # In check mode nothing is generated, because nothing is changed before it is known what will be.
        declared, _renderer, problems = inputs.declaration_of(variables, self._templar, self._loader, check_mode=True)
        if declared is None or problems:
            raise inputs.RefusedError(inputs.told(problems))
        found = rotation.plan(declared, arguments["names"], int(time.time()), keep_sessions=arguments["keep_sessions"])
        if found.problems:
            raise inputs.RefusedError(inputs.told([f"rotate_secrets: {problem}" for problem in found.problems]))
        self._check_hosts(variables, found)
        places = Places(declared, arguments, variables.get("stack_secrets"))
        try:
            self._prepare(places, variables, found)
            if not self._task.check_mode:
                for writing in places.writers:
                    writing()
        finally:
            for writing in places.writers:
                if isinstance(writing, Writing):
                    writing.drop()
        text = [*rotation.told(found, places.names), *([] if self._task.check_mode else [_WRITTEN])]
        return {**result, "changed": True, "names": found.names, "text": text, **places.vault}

    def _check_hosts(self, variables: Mapping[str, Any], found: rotation.Rotation) -> None:
        """Raise RefusedError where another host of the run has other secrets: all would get those of the first one."""
        own, asked = variables["inventory_hostname"], {rotation.INVENTORY: ["stack_secrets"], rotation.ENV_LOCAL: ["stack_env_local"]}
        asked |= {rotation.GENERATED: ["stack_generated_secrets_file"], rotation.AWS: ["stack_aws_secret_id", "stack_aws_region"]}
        for other in variables.get("ansible_play_hosts_all") or []:
            for source, values in found.changes.items() if other != own else ():
                mine, theirs = ([self._given(variables, name, variable, values) for variable in asked[source]] for name in (own, other))
                if mine != theirs:
                    raise inputs.RefusedError(
                        f"Nothing was changed. {own} and {other} do not have the same {', '.join(values)} ({', '.join(asked[source])}), and one run gives "
                        f"all hosts the same new ones. Rotate them one after the other: --limit {own}"
                    )

    def _given(self, variables: Mapping[str, Any], host_name: str, variable: str, names: Collection[str]) -> Any:
        """Return a variable of a host, of a mapping the names that are rotated; as the inventory has it where it needs what a role knows."""

        def of(known: Mapping[str, Any]) -> Any:
            found = known.get(variable)
            return {name: found.get(name) for name in names} if isinstance(found, Mapping) else found

        try:
            return of(variables["hostvars"][host_name])
        except AnsibleError:
            return of(variables["hostvars"].raw_get(host_name))

    def _prepare(self, places: Places, variables: Mapping[str, Any], found: rotation.Rotation) -> None:
        declared = places.declared
        for source, values in found.changes.items():
            if source == rotation.AWS:
                place = str(declared.arguments["stack_aws_secret_id"]), str(declared.arguments["stack_aws_region"])
                places.names[source] = f"the secret {place[0]} of AWS Secrets Manager"
                # First, because it is the one that may be refused.
                places.writers.insert(0, functools.partial(self._to_aws, places, variables, place, values))
            else:
                getattr(places, source)(values)

    def _to_aws(self, places: Places, variables: Mapping[str, Any], place: tuple[str, str], values: Mapping[str, str]) -> None:
        try:
            places.vault["aws_version"] = inputs.write_aws(variables, self._templar, self._loader, place, values)
        except inputs.UnknownError as error:
            raise inputs.RefusedError(
                f"It is not known whether the new values were written. Deploy, or rotate again. AWS Secrets Manager (stack_aws_secret_id): {error}"
            ) from None
        except inputs.AwsError as error:
            raise inputs.RefusedError(f"Nothing was changed. AWS Secrets Manager (stack_aws_secret_id): {error}") from None
