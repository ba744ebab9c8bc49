"""Checks host names by one strict rule."""

import re
from collections.abc import Iterable

from nightshift.contracts.hosts import LABEL, MODEL_HOSTS
from nightshift.eventlog.errors import Refused

_HOST = re.compile(rf"({LABEL}\.)+{LABEL}")
_LONGEST = 253


class HostRefused(Refused):
    """The proxy refuses to connect to this host. The message names the host and the reason."""


def host_name(text: str) -> str:
    """Return the name in lower case. Raises HostRefused for anything but a plain DNS name of two or more labels.

    So these are refused: an address in any form, a name with a user, a wildcard, a trailing dot, or a character outside
    ASCII. A name whose last label has only digits is refused because resolvers read it as an address.
    """
    name = text.lower() if text.isascii() else ""
    if len(name) > _LONGEST or not _HOST.fullmatch(name) or name.rpartition(".")[2].isdigit():
        raise HostRefused(f"{text[:_LONGEST]!r} is not an exact host name, such as files.example.org")
    return name


def reachable(hosts: Iterable[str]) -> frozenset[str]:
    """Return the checked names in lower case, without those that are never reachable. Raises HostRefused."""
    return frozenset(map(host_name, hosts)) - MODEL_HOSTS
