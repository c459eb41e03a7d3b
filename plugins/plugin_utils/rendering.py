# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Render variables and templates. The one place between the program and Ansible's templating."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from ansible.errors import AnsibleError
from ansible.template import Templar, trust_as_template
from ansible_collections.campaign.platform.plugins.plugin_utils.texts import plain


class Renderer(Protocol):
    """What the program needs of a template engine; tests may give another."""

    def render(self, value: Any, names: Mapping[str, Any]) -> Any:
        """Return data with all expressions in it rendered; ``names`` win over variables."""

    def template(self, path: str, names: Mapping[str, Any]) -> str:
        """Return a template file's text rendered; a relative path is looked for among the role's templates."""

    def holds(self, condition: str, names: Mapping[str, Any]) -> bool:
        """Return whether a condition is true."""


class AnsibleRenderer:
    """Renders with Ansible's own templar and the variables of a task."""

    def __init__(self, templar: Templar, variables: Mapping[str, Any], role_path: str):
        self._templar = templar
        self._variables = variables
        self._role_path = role_path

    def _with(self, names: Mapping[str, Any]) -> Templar:
        return self._templar.copy_with_new_env(available_variables={**self._variables, **names})

    def render(self, value: Any, names: Mapping[str, Any]) -> Any:
        """See Renderer."""
        return plain(self._with(names).template(value))

    def template(self, path: str, names: Mapping[str, Any]) -> str:
        """See Renderer. A file that cannot be read raises OSError."""
        with open(os.path.join(self._role_path, "templates", path), encoding="utf-8") as file:
            text = trust_as_template(file.read())
        return str(self._with(names).template(text, escape_backslashes=False))

    def holds(self, condition: str, names: Mapping[str, Any]) -> bool:
        """See Renderer."""
        return bool(self._with(names).evaluate_conditional(condition))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def why(error: Exception) -> str:
    """Return why an expression cannot be evaluated, without a value: what a filter or a parser says may quote a secret."""
    for cause in _chain(error):
        text = cause.message if isinstance(cause, AnsibleError) else str(cause)
        # The plugins of this collection show no value, and say themselves what to do.
        if own := re.search(r"The (?:lookup|filter) plugin 'campaign\.platform\.\w+' failed: (.+)", text, re.DOTALL):
            return own[1]
        if undefined := re.search(r"'?([A-Za-z_][\w.]*)'? is undefined|has no attribute '([^']+)'", text):
            return f"it refers to {undefined[1] or undefined[2]}, which is not defined. Define that, or correct the name."
        if "vault" in text.lower() or "decrypt" in text.lower():
            return "it cannot be decrypted. Give the vault password that it was encrypted with: --ask-vault-pass or --vault-password-file."
        if "yntax error" in text:
            return "it is not a valid Jinja expression. Where the braces belong to the value, write !unsafe before it."
    if isinstance(error, OSError):
        return f"{error.filename} cannot be read ({error.strerror})."
    return f"its expression fails ({type(error).__name__}). Correct the expression, or give the value itself."
