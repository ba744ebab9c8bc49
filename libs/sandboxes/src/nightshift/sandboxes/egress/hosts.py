"""Checks host names by one strict rule: only complete DNS names are accepted."""

import re
from collections.abc import Iterable

from nightshift.contracts.hosts import LABEL, MODEL_HOSTS
from nightshift.eventlog.errors import Refused

_HOST = re.compile(rf"({LABEL}\.)+{LABEL}")
_LONGEST = 253


class HostRefused(Refused):
    """The proxy does not connect to this host, by a rule. The message names the host and the reason."""


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
    """Return the names in lower case, without the hosts of model providers, which a sandbox may never reach.

    Raises HostRefused for a name that is not a plain DNS name.
    """
    return frozenset(map(host_name, hosts)) - MODEL_HOSTS
