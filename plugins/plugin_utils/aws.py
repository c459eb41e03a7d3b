# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the text of a secret of AWS Secrets Manager, and say what errors mean without showing a value."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

ATTEMPTS = 4
_CREDENTIALS = "Credentials come from the SDK's own places: the environment, a profile, or the machine's instance role."
# Patterns of AWS's codes and the SDK's classes, with what they mean; the first that matches is taken.
_REMEDIES = {
    r"ResourceNotFound": "there is no such secret. Check stack_aws_secret_id and stack_aws_region, and that you are in the secret's account.",
    r"AccessDenied": "reading it was denied. Allow these credentials secretsmanager:GetSecretValue on the secret, and kms:Decrypt on its key.",
    r"Throttl|TooManyRequests|RequestLimit|SlowDown": f"the request was throttled {ATTEMPTS} times. The settings are right: try again later.",
    r"ExpiredToken": f"the credentials have expired. Get new ones. {_CREDENTIALS}",
    r"UnrecognizedClient|Signature|InvalidClientToken|MissingAuthentication|AuthFailure": f"the credentials were refused. {_CREDENTIALS}",
    r"Credential|Profile|Token|SSO": f"there are no usable credentials. {_CREDENTIALS}",
    r"InvalidRequest": "the secret cannot be read in its present state. If it is marked for deletion, restore it: aws secretsmanager restore-secret.",
    r"DecryptionFailure": "its key cannot decrypt it. Check the state of the KMS key, and kms:Decrypt of these credentials.",
    r"InvalidParameter|Validation": "the request was refused. Check the spelling of stack_aws_secret_id.",
    r"Endpoint|Connect|Timeout|HTTPClient|SSL|Proxy|InvalidRegion": (
        "the service cannot be reached. Check stack_aws_region, this machine's proxy and certificates, and AWS_ENDPOINT_URL_SECRETS_MANAGER if it is set."
    ),
}


def explain_writing(code: str) -> str:
    """Return what an error's code or class means where a secret was to be written."""
    if re.search("AccessDenied", code):
        return f"writing it was denied. Allow these credentials secretsmanager:PutSecretValue on the secret, and kms:GenerateDataKey on its key. ({code})"
    return explain(code)


def is_refusal(response: object) -> bool:
    """Return whether the answer in an SDK's error says that nothing was written: a lost one, and one of a service that failed, leave it open."""
    status = (response.get("ResponseMetadata") or {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    return isinstance(status, int) and 400 <= status < 500


def changed(text: object, values: Mapping[str, str]) -> str | None:
    """Return a secret's text with other values, None where it is not a JSON object."""
    try:
        read = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        read = None
    return json.dumps({**read, **values}) if isinstance(read, dict) else None


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
            # What answers may not be AWS, so its code is shown only where it looks like one of AWS.
            if not re.fullmatch(r"[A-Za-z]{3,60}", code):
                code = type(cause).__name__
            return code
        if type(cause).__module__.partition(".")[0] in ("botocore", "boto3", "urllib3"):
            return type(cause).__name__
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


@dataclass(frozen=True)
class Answer:
    """The secrets that were read, and a message for everything that is wrong."""

    secrets: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def parse(text: object) -> Answer:
    """Return the secrets in ``text``, a JSON object of strings, and what is wrong with it."""
    try:
        values = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        values = None
    if not isinstance(values, dict):
        return Answer(problems=['the secret is not a JSON object. Store one: {"NAME": "value", ...}, with the names of stack_secrets.'])
    wrong = sorted(name for name, value in values.items() if not isinstance(value, str))
    problems = [f"{', '.join(wrong)}: not a string. Put the value in double quotes in the secret's JSON."] if wrong else []
    return Answer({name: value for name, value in values.items() if isinstance(value, str)}, problems)
