"""The rules that the egress proxy has for one sandbox, and the sandbox's traffic since `take` was last called."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from nightshift.sandboxes.egress.hosts import HostRefused, host_name
from nightshift.sandboxes.egress.secret_store import SecretStore
from nightshift.sandboxes.egress.secret_swap import SecretSwap
from nightshift.sandboxes.egress.streams import ByteStream
from nightshift.sandboxes.port import HostTraffic, NetworkRules

_MOST_HOSTS: Final = 100
_OTHERS: Final = "(others)"


@dataclass(slots=True, eq=False)
class OpenConnection:
    """A connection to a host. `sent` and `received` are the bytes of it that are already in the traffic counters."""

    host: str
    port: int
    stream: ByteStream
    started: float = field(default_factory=time.monotonic)
    sent: int = 0
    received: int = 0


@dataclass(slots=True)
class SandboxRules:
    """The rules and the traffic of one sandbox. `build_id` is only for the log."""

    sandbox_id: str
    build_id: str
    rules: NetworkRules
    store: SecretStore
    traffic: dict[str, HostTraffic] = field(default_factory=dict)
    open: set[OpenConnection] = field(default_factory=set)

    def allowed(self) -> frozenset[str]:
        """Return the hosts that the sandbox may reach, including the hosts of its secrets."""
        return self.rules.hosts.union(*(hosts for hosts, _ in self._secrets()))

    def require(self, host: str) -> str:
        """Return the host's name in lower case. Raises HostRefused when the sandbox may not reach the host."""
        name = host_name(host)
        if name not in self.rules.hosts and name not in self.allowed():
            allowed = ", ".join(sorted(self.allowed())) or "none"
            raise HostRefused(f"the host {name} is not allowed", hint=f"allowed hosts: {allowed}")
        return name

    def swap(self, host: str) -> SecretSwap | None:
        """Return the swap of placeholders by secrets in requests to this host, or None when no secret is for the
        host.
        """
        found = [secret for hosts, secret in self._secrets() if host in hosts]
        return SecretSwap(found) if found else None

    def _secrets(self) -> Iterator[tuple[frozenset[str], tuple[str, str, tuple[str, ...]]]]:
        for use in self.rules.secrets:
            stored = self.store.get(use.account_id, use.name)
            if stored is not None:
                yield stored.hosts, (use.placeholder, stored.value, stored.earlier)

    def count(
        self, host: str, *, sent: int = 0, received: int = 0, connections: int = 0, refused: str | None = None
    ) -> None:
        """Add to the traffic counters of this host. After 100 hosts, further ones are counted together under one
        name.
        """
        if host not in self.traffic and len(self.traffic) >= _MOST_HOSTS:
            host = _OTHERS
        before = self.traffic.get(host, HostTraffic(host))
        self.traffic[host] = HostTraffic(
            host,
            connections=before.connections + connections,
            sent=before.sent + sent,
            received=before.received + received,
            refused=before.refused + (refused is not None),
            reason=refused or before.reason,
        )

    def begin(self, connection: OpenConnection) -> None:
        """Count a new connection. From now on `take` includes its bytes."""
        self.open.add(connection)
        self.count(connection.host, connections=1)

    def end(self, connection: OpenConnection) -> None:
        """Add the connection's last bytes to the counters, and forget the connection."""
        self._settle(connection)
        self.open.discard(connection)

    def _settle(self, connection: OpenConnection) -> None:
        stream = connection.stream
        sent, received = stream.sent - connection.sent, stream.received - connection.received
        if sent or received:
            self.count(connection.host, sent=sent, received=received)
        connection.sent, connection.received = stream.sent, stream.received

    def take(self) -> list[HostTraffic]:
        """Return the traffic by host since the previous call, including that of open connections. Resets the
        counters.
        """
        for connection in self.open:
            self._settle(connection)
        taken, self.traffic = list(self.traffic.values()), {}
        return taken
