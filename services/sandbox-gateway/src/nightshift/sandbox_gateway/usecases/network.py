"""Decides which hosts the sandbox of a build may reach, and reports the traffic with hosts."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog
from prometheus_client import Counter

from nightshift.contracts.events.sandbox import NetworkUse
from nightshift.eventlog.errors import ConfigurationError, Transient
from nightshift.sandbox_gateway.domain.sandbox_state import SandboxState
from nightshift.sandboxes.egress.hosts import reachable
from nightshift.sandboxes.egress.secret_store import SecretStore
from nightshift.sandboxes.port import DriverName, HostTraffic, NetworkRules, Sandbox, SecretUse

_log = structlog.get_logger(__name__)
_CONNECTIONS = Counter(
    "nightshift_egress_connections", "Connections of sandboxes to hosts outside", ["verdict"]
)
_BYTES = Counter("nightshift_egress_bytes", "Bytes between sandboxes and hosts outside", ["direction"])

_MOST_REASON = 1000
#: What programs say when a name cannot be looked up.
_NO_NAME = re.compile(
    r"Could not resolve host|Temporary failure in name resolution|Name or service not known|EAI_AGAIN|ENOTFOUND"
    r"|dial tcp: lookup|No address associated with hostname|UnknownHostException|failed to lookup address"
)
_NO_LOOKUP = (
    "names are not looked up in this sandbox: the network is reached through the proxy of HTTPS_PROXY and HTTP_PROXY,"
    " which this program did not use"
)


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """Decides about the networks of sandboxes. `hosts` are those that every build may reach. If `hosts` is None, no
    sandbox has a network.
    """

    hosts: frozenset[str] | None
    store: SecretStore
    driver: DriverName

    def rules(self, state: SandboxState) -> NetworkRules | None:
        """Return the network rules of the build's sandbox, or None when it has no network.

        Raises ConfigurationError, which says what to do, for a secret that the build cannot get.
        """
        self._require_secrets(state)
        if self.hosts is None:
            return None
        secrets = tuple(
            SecretUse(state.account_id, name, _placeholder(state, name)) for name in state.secrets
        )
        return NetworkRules(self._reachable(state), secrets)

    def _reachable(self, state: SandboxState) -> frozenset[str]:
        """Return the hosts that the build may reach, none when no sandbox has a network."""
        if self.hosts is None:
            return frozenset()
        source = {urlsplit(state.source.repository).hostname or ""} if state.source is not None else set()
        return reachable(self.hosts | set(state.egress_hosts) | source)

    def refusal(self, state: SandboxState) -> str | None:
        """Return why this sandbox gateway cannot give the build's secrets to a sandbox, or None when it can.

        At E2B, requests leave the sandbox without passing the egress proxy. So the value of a secret would have to
        enter the sandbox.
        """
        if not state.secrets or (self.driver == "local" and self.hosts is not None):
            return None
        names = ", ".join(state.secrets)
        where = "at E2B" if self.driver == "e2b" else "without a network"
        return (
            f"the secrets {names} cannot be used in a sandbox {where}: the egress proxy puts secrets into requests, and"
            " only local sandboxes with NIGHTSHIFT_EGRESS=allow-list have it"
        )

    def _require_secrets(self, state: SandboxState) -> None:
        if (refusal := self.refusal(state)) is not None:
            raise ConfigurationError(
                refusal,
                hint="Run the gateway with NIGHTSHIFT_SANDBOX_DRIVER=local and NIGHTSHIFT_EGRESS=allow-list",
            )
        for name in state.secrets:
            if self.store.get(state.account_id, name) is None:
                raise ConfigurationError(
                    f"the account {state.account_id} has no secret {name}",
                    hint=f"Store it: nightshift secrets set {name} --account {state.account_id} --host HOST",
                )

    def variables(self, state: SandboxState) -> dict[str, str]:
        """Return the build's secrets as environment variables for its commands: name → placeholder."""
        return {name: _placeholder(state, name) for name in state.secrets}

    def described(self, state: SandboxState) -> str:
        """Return sentences that tell the agent about its network and its secrets."""
        rules = self.rules(state)
        if rules is None:
            return "There is no network."
        parts = [
            f"Of the network only these hosts can be reached: {', '.join(sorted(rules.hosts)) or 'none'}."
        ]
        for use in rules.secrets:
            stored = self.store.get(use.account_id, use.name)
            hosts = ", ".join(sorted(stored.hosts)) if stored is not None else "none"
            parts.append(
                f"The variable {use.name} holds a placeholder; requests over https to {hosts} carry the secret instead."
            )
        return " ".join(parts)

    async def used(self, sandbox: Sandbox) -> tuple[NetworkUse, ...]:
        """Return the sandbox's traffic since this method last returned it. Returns () when the egress proxy does not
        answer.
        """
        try:
            taken = await sandbox.take_traffic()
        except Transient as error:
            _log.warning("egress.not_counted", sandbox_id=sandbox.id, error=str(error))
            return ()
        for one in taken:
            _CONNECTIONS.labels("allowed").inc(one.connections)
            _CONNECTIONS.labels("refused").inc(one.refused)
            _BYTES.labels("out").inc(one.sent)
            _BYTES.labels("in").inc(one.received)
        return tuple(_use(one) for one in taken)

    def note(self, state: SandboxState, used: Sequence[NetworkUse], output: str = "") -> str:
        """Return sentences that tell the agent why its network refused a connection, or "" when it refused none.

        `output` is the command's output. A program that ignores the egress proxy only reports there that it cannot
        resolve a name.
        """
        refused = [one for one in used if one.refused]
        if not refused and (self.hosts is None or not _NO_NAME.search(output)):
            return ""
        allowed = ", ".join(sorted(self._reachable(state))) or "none"
        if not refused:
            return f"\n[{_NO_LOOKUP}. This build may reach: {allowed}]"
        reasons = "; ".join(f"{one.host}: {one.reason}" for one in refused)
        return f"\n[no connection to {reasons}. This build may reach: {allowed}]"


def _placeholder(state: SandboxState, name: str) -> str:
    digest = hashlib.sha256(f"{state.build_id}/{name}".encode()).hexdigest()
    return f"nightshift_secret_{name}_{digest[:16]}"


def _use(one: HostTraffic) -> NetworkUse:
    return NetworkUse(
        host=one.host[:253],
        connections=one.connections,
        sent=one.sent,
        received=one.received,
        refused=one.refused,
        reason=one.reason[:_MOST_REASON] if one.reason is not None else None,
    )
