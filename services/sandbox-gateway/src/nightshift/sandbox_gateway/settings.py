"""The gateway's own settings, beside those of every service and of sandboxes."""

from collections.abc import Iterator

from pydantic import Field, SecretStr

from nightshift.sandboxes.settings import SnapshotSettings
from nightshift.servicekit.settings import Settings


class GatewaySettings(Settings, SnapshotSettings):
    """Read from `NIGHTSHIFT_GATEWAY_…`. Times are in seconds."""

    gateway_builds: int = Field(64, ge=1, le=10_000)  # at work at once on this replica
    gateway_lease_s: float = Field(6.0, ge=0.5, le=300)  # how long a dead gateway's builds wait for another
    gateway_look_s: float = Field(60.0, gt=0)  # how often the log and the provider are asked what waits
    build_secrets: dict[str, SecretStr] = Field(default_factory=dict)  # as JSON: name → value
    fail_point: str | None = None  # tests only: where this process ends itself

    def secrets(self) -> Iterator[str]:
        yield from super().secrets()
        yield from self.secret_values().values()

    def secret_values(self) -> dict[str, str]:
        """Name → value of the secrets that builds may name."""
        return {name: value.get_secret_value() for name, value in self.build_secrets.items()}
