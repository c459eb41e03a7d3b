# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read one secret of AWS Secrets Manager, once."""

from __future__ import annotations

DOCUMENTATION = r"""
name: aws_secret
short_description: Read a JSON object from AWS Secrets Manager once a process, and say what is wrong instead of failing
version_added: 0.2.0
description:
  - Asks through P(amazon.aws.secretsmanager_secret#lookup), with time limits and a few attempts, and keeps the answer in the memory of the
    process. Ansible forks a process for every task, and variables are evaluated anew in each, so whoever evaluates this lookup in the
    first process (the condition of a C(meta) task) has asked for all later tasks of the run.
  - Credentials, endpoint, proxy and certificates are those of the SDK's own environment.
  - What goes wrong is returned as messages that hold names and remedies and never a value.
options:
  _terms:
    description: Name or ARN of one secret, a JSON object of strings.
    required: true
    type: list
    elements: str
  region:
    description: The secret's region.
    required: true
    type: str
requirements:
  - boto3
notes:
  - Four attempts at most, with pauses that grow up to some four seconds, and three seconds to connect.
"""

EXAMPLES = r"""
- name: Stop unless the secret can be read
  ansible.builtin.assert:
    that: example.problems | length == 0
    fail_msg: "{{ example.problems | join(' ') }}"
  vars:
    example: "{{ lookup('campaign.platform.aws_secret', 'campaign/prod', region='eu-central-1') }}"
"""

RETURN = r"""
_list:
  description: One mapping with C(secrets), names to strings, and C(problems), a list of messages.
  type: list
  elements: dict
"""

import json
import re

from ansible.errors import AnsibleError
from ansible.plugins.loader import lookup_loader
from ansible.plugins.lookup import LookupBase

ATTEMPTS = 4
_CREDENTIALS = "Credentials come from the SDK's own places: the environment, a profile, or the machine's instance role."
# Patterns of AWS's codes and the SDK's classes, with what they mean; the first that fits counts.
_REMEDIES = {
    r"ResourceNotFound": "there is no such secret. Check stack_aws_secret_id and stack_aws_region, and that you are in the secret's account.",
    r"AccessDenied": "reading it was denied. Allow these credentials secretsmanager:GetSecretValue on the secret, and kms:Decrypt on its key.",
    r"Throttl|TooManyRequests|RequestLimit|SlowDown": f"the request was throttled {ATTEMPTS} times. The settings are not to blame: try again later.",
    r"ExpiredToken": f"the credentials have expired. Get new ones. {_CREDENTIALS}",
    r"UnrecognizedClient|Signature|InvalidClientToken|MissingAuthentication|AuthFailure": f"the credentials were refused. {_CREDENTIALS}",
    r"Credential|Profile|Token|SSO": f"there are no usable credentials. {_CREDENTIALS}",
    r"InvalidRequest": "the secret is in no state to be read. If it was marked for deletion, restore it: aws secretsmanager restore-secret.",
    r"DecryptionFailure": "its key cannot decrypt it. Check the state of the KMS key, and kms:Decrypt of these credentials.",
    r"InvalidParameter|Validation": "the request was refused. Check the spelling of stack_aws_secret_id.",
    r"Endpoint|Connect|Timeout|HTTPClient|SSL|Proxy|InvalidRegion": (
        "the service cannot be reached. Check stack_aws_region, this machine's way out (proxy, certificates), "
        "and AWS_ENDPOINT_URL_SECRETS_MANAGER if it is set."
    ),
}
_answers: dict[tuple[str, str], dict] = {}


def explain(code: str) -> str:
    """Return what an error's code or class means, with the remedy."""
    for pattern, remedy in _REMEDIES.items():
        if re.search(pattern, code):
            return f"{remedy} ({code})"
    return f"the answer is not usable ({code}). Try again later, and check stack_aws_secret_id and stack_aws_region."


def code_of(error: BaseException) -> str:
    """Return the code of AWS, else the class, of the SDK's error that led to ``error``; both are names and hold no value."""
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            code = str(response.get("Error", {}).get("Code", ""))
            # What answers may be no AWS at all, so its code is shown only where it looks like one.
            if not re.fullmatch(r"[A-Za-z]{3,60}", code):
                code = type(cause).__name__
            return code
        if type(cause).__module__.partition(".")[0] in ("botocore", "boto3", "urllib3"):
            return type(cause).__name__
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def parse(text) -> dict:
    """Return the secrets in ``text`` and what is wrong with it."""
    try:
        values = json.loads(text)
    except (TypeError, ValueError):
        values = None
    if not isinstance(values, dict):
        return {"secrets": {}, "problems": ['the secret is no JSON object. Store one: {"NAME": "value", ...}, with the names of stack_secrets.']}
    wrong = sorted(name for name, value in values.items() if not isinstance(value, str))
    problems = [f"{', '.join(wrong)}: not a string. Put the value in double quotes in the secret's JSON."] if wrong else []
    return {"secrets": {name: value for name, value in values.items() if isinstance(value, str)}, "problems": problems}


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def _ask(self, secret_id: str, region: str, variables) -> dict:
        try:
            reader = lookup_loader.get("amazon.aws.secretsmanager_secret", loader=self._loader, templar=self._templar)
            if reader is None:
                raise ImportError
            from ansible_collections.amazon.aws.plugins.module_utils.retries import AWSRetry
            from botocore.config import Config
        except ImportError:
            return {"secrets": {}, "problems": ["the collection amazon.aws and the Python package boto3 are needed on this machine. Install both."]}
        connect = reader.client
        # The defaults would try for minutes. The SDK's own attempts are enough, so the collection's are one.
        limits = Config(connect_timeout=3, read_timeout=10, retries={"mode": "standard", "total_max_attempts": ATTEMPTS})
        reader.client = lambda service, _retries: connect(service, AWSRetry.jittered_backoff(retries=1), config=limits)
        try:
            found = reader.run([secret_id], variables, region=region)
        except AnsibleError as error:
            return {"secrets": {}, "problems": [explain(code_of(error))]}
        return parse(found[0] if found else None)

    def run(self, terms, variables=None, **kwargs):
        self.set_options(var_options=variables, direct=kwargs)
        region = self.get_option("region")
        answers = []
        for term in terms:
            key = (str(term), str(region))
            if key not in _answers:
                _answers[key] = self._ask(*key, variables)
            answers.append(_answers[key])
        return answers
