"""The gateway's own settings, beside those of every service and of sandboxes."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from nightshift.contracts.hosts import PUBLIC_REGISTRIES
from nightshift.sandboxes.egress.hosts import HostRefused, host_name
from nightshift.sandboxes.settings import SnapshotSettings
from nightshift.servicekit.settings import Settings


class GatewaySettings(Settings, SnapshotSettings):
    """Read from `NIGHTSHIFT_GATEWAY_…`. Times are in seconds."""

    gateway_builds: int = Field(64, ge=1, le=10_000)  # at work at once on this replica
    gateway_lease_s: float = Field(6.0, ge=0.5, le=300)  # how long a dead gateway's builds wait for another
    gateway_look_s: float = Field(60.0, gt=0)  # how often the log and the provider are asked what waits
    gateway_preview_s: float = Field(
        86_400.0, gt=0
    )  # how long a finished build's preview lives after a visit
    egress: Literal["allow-list", "none"] = "allow-list"  # whether sandboxes have a network
    egress_hosts: tuple[str, ...] | None = (
        None  # as JSON, what every build may reach; none: the public registries
    )
    secrets_dir: Path | None = None  # of the accounts' secrets; none: `secrets` in the home
    fail_point: str | None = None  # tests only: where this process ends itself

    @field_validator("egress_hosts")
    @classmethod
    def _exact(cls, hosts: tuple[str, ...] | None) -> tuple[str, ...] | None:
        try:
            return None if hosts is None else tuple(sorted(map(host_name, hosts)))
        except HostRefused as error:
            raise ValueError(str(error)) from None

    @property
    def reachable_hosts(self) -> frozenset[str] | None:
        """The hosts that every build may reach. None when sandboxes have no network."""
        if self.egress == "none":
            return None
        return PUBLIC_REGISTRIES if self.egress_hosts is None else frozenset(self.egress_hosts)

    @property
    def secret_directory(self) -> Path:
        return (self.secrets_dir or self.home / "secrets").absolute()
