"""Host names: the public package registries, the hosts that are never reachable, and one strict reading of a name."""

import re
from collections.abc import Iterable
from typing import Final

from nightshift.eventlog.errors import Refused

#: The hosts that builds may reach unless a setting says otherwise: those of the public package registries.
PUBLIC_REGISTRIES: Final = frozenset(
    {
        *("pypi.org", "files.pythonhosted.org"),
        *("registry.npmjs.org", "registry.yarnpkg.com"),
        *("crates.io", "index.crates.io", "static.crates.io"),
        *("proxy.golang.org", "sum.golang.org"),
        *("repo.maven.apache.org", "repo1.maven.org", "plugins.gradle.org"),
        *("rubygems.org", "index.rubygems.org"),
        *("api.nuget.org", "repo.packagist.org"),
    }
)

#: Never reachable, also when a setting, an account or a request names them: agents must not call the model.
MODEL_HOSTS: Final = frozenset({"api.anthropic.com"})

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}\.)+{_LABEL}")
_LONGEST = 253


class HostRefused(Refused):
    """The proxy does not connect to this host. The message names the host and the reason."""


def host_name(text: str) -> str:
    """Return the name in lower case. Raises HostRefused for anything but a plain DNS name of two or more labels.

    So an address in any form, a name with a user, a wildcard, a trailing dot or a character outside ASCII is refused.
    A last label of digits only is refused because resolvers read such a name as an address.
    """
    name = text.lower() if text.isascii() else ""
    if len(name) > _LONGEST or not _HOST.fullmatch(name) or name.rpartition(".")[2].isdigit():
        raise HostRefused(f"{text[:_LONGEST]!r} is not an exact host name, such as files.example.org")
    return name


def reachable(hosts: Iterable[str]) -> frozenset[str]:
    """Return the names in their one form, without those that are never reachable. Raises HostRefused."""
    return frozenset(map(host_name, hosts)) - MODEL_HOSTS
