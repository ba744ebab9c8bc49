"""Resolves a host name once, checks every address, and connects only to an address that was checked."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from nightshift.eventlog.errors import Transient
from nightshift.sandboxes.egress import addresses
from nightshift.sandboxes.egress.hosts import HostRefused

_RESOLVE_S = 5.0
_CONNECT_S = 5.0
_REMEMBER_S = 30.0
_MOST_NAMES = 4096
_MOST_ADDRESSES = 4

#: Returns the addresses of a name. Raises OSError when the name has none.
Lookup = Callable[[str], Awaitable[list[str]]]


class HostUnreachable(Transient):
    """The sandbox may reach the host, but the host's name does not resolve or the host does not answer."""


async def system_lookup(host: str) -> list[str]:
    """Ask the machine's resolver for all addresses of the name."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Resolver:
    """Resolves host names, and keeps the checked addresses of each name for 30 s."""

    def __init__(
        self, lookup: Lookup = system_lookup, *, refusal: Callable[[str], str | None] = addresses.refusal
    ) -> None:
        self._lookup = lookup
        self._refusal = refusal
        self._known: dict[str, tuple[float, list[str]]] = {}

    async def addresses(self, host: str) -> list[str]:
        """Return at most four addresses of the host that the proxy may connect to.

        Raises HostRefused when all addresses of the name are refused, and HostUnreachable when the name has no address.
        """
        until, known = self._known.get(host, (0.0, []))
        if time.monotonic() < until:
            return known
        try:
            async with asyncio.timeout(_RESOLVE_S):
                found = await self._lookup(host)
        except (OSError, UnicodeError, TimeoutError) as error:
            raise HostUnreachable(f"{host} does not resolve: {error or 'no answer in time'}") from error
        reasons = {address: self._refusal(address) for address in found}
        allowed = [address for address, reason in reasons.items() if reason is None][:_MOST_ADDRESSES]
        if not allowed:
            address, reason = next(iter(reasons.items()), ("no address", "unknown"))
            raise HostRefused(f"{host} resolves to {address}, which is {reason}")
        if len(self._known) >= _MOST_NAMES:
            self._known.clear()
        self._known[host] = (time.monotonic() + _REMEMBER_S, allowed)
        return allowed

    async def connect(self, host: str, port: int) -> socket.socket:
        """Return a connected, non-blocking socket to a checked address of the host. Tries its addresses in turn.

        Raises HostRefused when a rule forbids all addresses, and HostUnreachable when none answers.
        """
        said = "no address"
        for address in await self.addresses(host):
            try:
                return await _connect(address, port)
            except (OSError, TimeoutError) as error:
                said = str(error) or "no answer in time"
        self._known.pop(host, None)
        raise HostUnreachable(f"{host}:{port} does not answer: {said}")


async def _connect(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connected = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with suppress(OSError):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(_CONNECT_S):
            await asyncio.get_running_loop().sock_connect(connected, (address, port))
    except BaseException:
        connected.close()
        raise
    return connected
