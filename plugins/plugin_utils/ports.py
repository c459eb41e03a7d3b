# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ports of the host that services publish, in the forms that Docker Compose reads."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# [ADDRESS:]PUBLISHED:TARGET[/PROTOCOL], where both may be ranges: https://docs.docker.com/reference/compose-file/services/#short-syntax-4
_SHORT = re.compile(r"(?:(?P<address>\[[^]]*\]|[^:]*):)?(?:(?P<published>[^:]*):)?(?P<target>[0-9]+(?:-[0-9]+)?)(?:/(?P<protocol>\w+))?\Z")
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?\Z")
_REFERRED = re.compile(r"\$\{(?P<name>\w+)(?::?(?P<sign>[?-])(?P<rest>[^}]*))?\}")
_PROTOCOLS = ("tcp", "udp")
LARGEST = 65535
# More than this is no range that a person meant, and would be asked of the host one by one.
MOST = 1000


class PortError(ValueError):
    """A port that cannot be published. The message completes "the container NAME ..."."""


@dataclass(frozen=True)
class Port:
    """One port of the host: the setting is the one that names the port, or an empty text."""

    address: str
    port: int
    protocol: str = "tcp"
    setting: str = ""


def filled(text: str, settings: Mapping[str, str]) -> str:
    """Return a text as Compose fills it in: a variable that is no setting gives its default, if it has one."""
    return _REFERRED.sub(lambda found: settings.get(found["name"], (found["rest"] or "") if found["sign"] == "-" else ""), text)


def _numbers(text: str, what: str) -> range:
    found = _RANGE.match(text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 0 < first <= last <= LARGEST:
        raise PortError(f"publishes {what}, which is not a port or a range of ports, 1 to {LARGEST}.")
    if last - first >= MOST:
        raise PortError(f"publishes {what}, which are more than {MOST} ports.")
    return range(first, last + 1)


def _parts(item: Any, settings: Mapping[str, str]) -> tuple[str, str, str, str]:
    """Return address, published port, port of the container and protocol, filled in; what is not said is empty."""
    if isinstance(item, Mapping):
        address, published, target, protocol = (filled(str(item.get(key) or ""), settings) for key in ("host_ip", "published", "target", "protocol"))
        return address, published, target, protocol
    found = _SHORT.match(filled(str(item), settings))
    if not found:
        raise PortError(f"publishes {item}, which is not a port. Write 127.0.0.1:PORT:PORT_OF_THE_CONTAINER.")
    # Without an address the first group is that of the published port.
    one, other = found["address"] or "", found["published"]
    return *((one, other) if other is not None else ("", one)), found["target"], found["protocol"] or ""


def read(item: Any, settings: Mapping[str, str]) -> Iterator[Port]:
    """Yield the ports of one item of a service's ``ports``. Raises PortError on what would be published in another way than it looks, or not at all.

    One that refers to what is no setting yields none, because that is reported by itself.
    """
    what = ":".join(str(item[key]) for key in ("host_ip", "published", "target") if item.get(key)) if isinstance(item, Mapping) else str(item)
    referred = list(_REFERRED.finditer(what))
    named = [found["name"] for found in referred]
    if any(found["name"] not in settings and found["sign"] != "-" for found in referred):
        return
    address, published, target, protocol = _parts(item, settings)
    protocol = protocol or "tcp"
    if protocol not in _PROTOCOLS:
        raise PortError(f"publishes {what} by {protocol}. Known are {' and '.join(_PROTOCOLS)}.")
    inside = _numbers(target, what)
    if not published:
        raise PortError(f"publishes {what} on a port that Docker chooses, another one after each start. Say which: 127.0.0.1:PORT:{target}.")
    outside = _numbers(published, what)
    if len(outside) != len(inside):
        raise PortError(f"publishes {what}: {len(outside)} ports for {len(inside)}. Give each port of the container one port of the host.")
    if not address:
        raise PortError(
            f"publishes {what} on every address of the host. Say on which: 127.0.0.1:{published}:{target}, or 0.0.0.0:{published}:{target} for all of them."
        )
    if not re.fullmatch(r"[0-9.]+", address) or not _is_ipv4(address):
        raise PortError(f"publishes {what} on {address}, which is not an IPv4 address. The firewall and the checks of the stack are for those.")
    for number in outside:
        yield Port(address, number, protocol, next((name for name in named if settings.get(name) == str(number)), ""))


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _all(services: Mapping[str, Any], settings: Mapping[str, str]) -> Iterator[tuple[str, Port]]:
    for service, body in services.items():
        for item in body.get("ports") or []:
            try:
                yield from [(service, port) for port in read(item, settings)]
            except PortError:
                # Reported by form_problems.
                continue


def published(services: Mapping[str, Any], settings: Mapping[str, str]) -> Iterator[tuple[str, str, int, str]]:
    """Yield service, address, port of the host and the setting that names the port (or an empty text), for every TCP port that services publish."""
    yield from ((service, port.address, port.port, port.setting) for service, port in _all(services, settings) if port.protocol == "tcp")


def form_problems(where: str, items: Collection[Any], settings: Mapping[str, str]) -> Iterator[str]:
    """Yield a message for every item of a service's ``ports`` that is not published as it looks."""
    for item in items:
        try:
            list(read(item, settings))
        except PortError as error:
            yield f"{where} {error}"


def clash_problems(services: Mapping[str, Any], settings: Mapping[str, str]) -> Iterator[str]:
    """Yield a message for every port that is published more than once."""
    owners: dict[tuple[str, int], list[str]] = {}
    for service, port in _all(services, settings):
        named = port.setting or f"port {port.port}{'' if port.protocol == 'tcp' else f'/{port.protocol}'} of {service}"
        owners.setdefault((port.protocol, port.port), []).append(named)
    for names in owners.values():
        if len(names) > 1:
            yield f"{' and '.join(names)} are the same port. Give each its own, in .env.local or by its variable, such as stack_frontend_port."
