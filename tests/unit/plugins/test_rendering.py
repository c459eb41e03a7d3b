# SPDX-License-Identifier: GPL-3.0-or-later
"""What is rendered against what, and what is said when it cannot be, without a value."""

import pytest
from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible.template import Templar
from ansible_collections.campaign.platform.plugins.plugin_utils.rendering import AnsibleRenderer, why
from program import LOADER, ROLE, trusted

VARIABLES = trusted({"one": "1", "two": "{{ one }}2", "list": ["{{ two }}"], "password": "s3cret"})


@pytest.fixture
def renderer():
    return AnsibleRenderer(Templar(loader=LOADER, variables=VARIABLES), VARIABLES, str(ROLE))


@pytest.mark.parametrize(
    ("value", "names", "rendered"),
    [
        ("{{ two }}", {}, "12"),
        ("{{ two }}", {"one": "9"}, "92"),
        ({"a": ["{{ list }}", 1, True, None]}, {}, {"a": [["12"], 1, True, None]}),
        ("{{ {'a': one} }}", {}, {"a": "1"}),
        ("{{ name.key }}", {"name": {"key": "v"}}, "v"),
    ],
)
def test_data_is_rendered_and_names_win_over_variables(renderer, value, names, rendered):
    found = renderer.render(trusted(value), trusted(names))
    assert found == rendered
    assert type(found) in (str, dict, list)


def test_what_is_not_trusted_is_not_rendered(renderer):
    assert renderer.render("{{ one }}", {}) == "{{ one }}"
    assert renderer.render(trusted("{{ given }}"), {"given": "{{ password }}"}) == "{{ password }}"


def test_a_template_of_the_role_keeps_its_backslashes_and_its_last_line(renderer, tmp_path):
    assert renderer.template("redis.conf.j2", {}).endswith("noeviction\n")
    own = tmp_path / "own.j2"
    own.write_text("a\\n{{ one }}\n")
    assert renderer.template(str(own), {}) == "a\\n1\n"


def test_a_condition_is_true_or_false(renderer):
    assert renderer.holds(trusted("one == '1'"), {}) is True
    assert renderer.holds(trusted("one == '1'"), {"one": "2"}) is False


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("{{ nowhere }}", "it refers to nowhere, which is not defined. Define that, or correct the name."),
        ("{{ one.nowhere }}", "it refers to nowhere, which is not defined. Define that, or correct the name."),
        ("{{ {'a': 1}['no-where'] }}", "it refers to no-where, which is not defined. Define that, or correct the name."),
        ("{{ password | no_such_filter }}", "it is not a valid Jinja expression. Where the braces belong to the value, write !unsafe before it."),
        ("{{ password", "it is not a valid Jinja expression. Where the braces belong to the value, write !unsafe before it."),
        ("{{ password | from_json }}", "its expression fails"),
    ],
)
def test_why_an_expression_fails_is_explained_without_a_value(renderer, expression, told):
    with pytest.raises((AnsibleError, OSError)) as caught:
        renderer.render(trusted(expression), {})
    text = why(caught.value)
    assert text.startswith(told)
    assert "s3cret" not in text


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (raised(AnsibleError("Attempting to decrypt but no vault secrets found s3cret")), "it cannot be decrypted."),
        (raised(AnsibleError("x s3cret"), ValueError("Decryption failed s3cret")), "it cannot be decrypted."),
        (raised(AnsibleUndefinedVariable("'a_name' is undefined")), "it refers to a_name, which is not defined."),
        (raised(AnsibleError("The lookup plugin 'campaign.platform.env_file' failed: Write A=1.\nOr B=1.")), "Write A=1.\nOr B=1."),
        (raised(AnsibleError("The lookup plugin 'somebody.else.plugin' failed: s3cret")), "its expression fails (AnsibleError)."),
        (raised(FileNotFoundError(2, "No such file or directory", "/a.j2")), "/a.j2 cannot be read (No such file or directory)."),
        (raised(ValueError("s3cret")), "its expression fails (ValueError). Correct the expression, or give the value itself."),
    ],
)
def test_why_goes_by_the_kind_of_error(error, told):
    assert why(error).startswith(told)
    assert "s3cret" not in why(error)
