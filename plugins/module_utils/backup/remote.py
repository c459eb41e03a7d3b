# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong with a repository on another machine, in words: what servers, restic and ssh say of it, what that means and what to do.

restic tries most of it again for a quarter of an hour and says nothing meanwhile, a wrong secret too: https://github.com/restic/restic/issues/4876
"""

from __future__ import annotations

import json
import re

# The first one that is found counts. No further attempt ends otherwise.
_FOR_GOOD = {
    "signature we calculated|SignatureDoesNotMatch|Access Key Id|InvalidAccessKey|AuthorizationHeaderMalformed": (
        "The server does not know this access key with this secret. Check backup_s3_access_key and backup_s3_secret_key."
    ),
    "RequestTimeTooSkewed|request time and the": "The clock of this host and that of the server are too far apart. Set both by NTP.",
    "x509:|failed to verify certificate": (
        "The server's certificate is not trusted, or is of another name. Give the certificate of the authority that signed it in backup_ca."
    ),
    "HTTP response to HTTPS client": "There is no TLS at this port. Name the port that has it.",
    "HTTP request to an HTTPS server": "There is TLS at this port. Write s3:https:// in backup_repository.",
    "bucket does not exist|NoSuchBucket": "There is no such bucket. Create it, or correct backup_repository.",
    "Access ?Denied": (
        "The access key may not do this, or there is no such bucket and it may not create one. "
        "Create the bucket, and allow the key to list it and to read, write and delete its objects."
    ),
    "Load key|error in libcrypto|invalid format": "backup_ssh_key is not a whole private key, or has a passphrase. Give one without.",
    "[Hh]ost key": (
        "The server's key is not one that backup_ssh_known_hosts has for this name and port. "
        "Ask whoever runs the server whether it has a new one, and give the line of `ssh-keyscan` that is theirs."
    ),
    r"Permission denied \(": (
        "The server does not let this user in with this key. Put the public key of backup_ssh_key into the user's authorized_keys there."
    ),
    "permission denied|[Rr]ead-only": "This user of the server may not read and write the directory. Create it there, and give it to the user.",
}
# What may pass by itself.
_FOR_NOW = {
    "no such host|Could not resolve|server misbehaving": "The name of the server is not known here. Check backup_repository and backup_network.",
    "refused|timed out|timeout|[Uu]nreachable|[Nn]o route|deadline exceeded|unexpectedly closed|connection (lost|reset)|ssh command exited": (
        "The server does not answer. See whether it runs, and whether this host may reach its port through backup_network."
    ),
}
_RETRIED = re.compile(r"returned error, retrying after [^:]*: (.+)")


def _first(meanings: dict[str, str], error: str) -> str:
    return next((meaning for said, meaning in meanings.items() if re.search(said, error)), "")


def meaning(error: str) -> str:
    """Return what an error means and what to do, or an empty text."""
    return _first(_FOR_GOOD, error) or _first(_FOR_NOW, error)


def is_for_good(error: str) -> bool:
    """Return whether another attempt ends with this error as well."""
    return bool(_first(_FOR_GOOD, error))


def last_attempt(printed: str) -> str:
    """Return why the last of several attempts failed, of what restic has printed so far; an empty text where none has."""
    found = _RETRIED.findall(printed)
    return found[-1] if found else ""


def said(printed: str) -> str:
    """Return what restic has printed, without the JSON that some of its commands print."""
    lines = []
    for line in printed.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        lines.append(str(row.get("message") or row.get("error") or "") if isinstance(row, dict) else line)
    return "\n".join(lines)


def ssh_target(place: str) -> str:
    """Return whom ssh connects to for a repository at `sftp:USER@HOST:PATH` or `sftp://USER@HOST:PORT/PATH`."""
    if place.startswith("sftp://"):
        return f"ssh://{place.split('/')[2]}"
    return place.removeprefix("sftp:").partition(":")[0]
