"""The settings of the sandbox gateway, in addition to those of every service and of sandboxes."""

import hmac
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from nightshift.contracts.hosts import PUBLIC_REGISTRIES
from nightshift.sandbox_gateway.domain.preview_link import PreviewLinks
from nightshift.sandboxes.egress.hosts import HostRefused, host_name
from nightshift.sandboxes.settings import SnapshotSettings
from nightshift.servicekit.settings import Settings


class GatewaySettings(Settings, SnapshotSettings):
    """Settings of the sandbox gateway, from `NIGHTSHIFT_GATEWAY_…`. Times are in seconds."""

    gateway_builds: int = Field(
        64, ge=1, le=10_000
    )  # the most builds whose calls run at once on this replica
    gateway_lease_s: float = Field(6.0, ge=0.5, le=300)  # how long a dead gateway's builds wait for another
    gateway_look_s: float = Field(60.0, gt=0)  # how often the log and the provider are asked what waits
    gateway_preview_s: float = Field(
        86_400.0, gt=0
    )  # how long the preview of a finished build lives after a visit
    egress: Literal["allow-list", "none"] = "allow-list"  # whether sandboxes have a network
    egress_hosts: tuple[str, ...] | None = (
        None  # as JSON, the hosts that every build may reach; None: the public registries
    )
    preview_base: str | None = (
        None  # such as https://preview.example.org; None: previews have the driver's URLs
    )
    preview_listen: str = "0.0.0.0:8090"  # the address of the server behind the preview base
    preview_link_s: int = Field(7 * 86_400, ge=60, le=366 * 86_400)  # how long a link to a preview holds
    secrets_dir: Path | None = None  # the folder of the accounts' secrets; none: `secrets` in NIGHTSHIFT_HOME
    fail_point: str | None = None  # tests only: where this process ends itself

    @field_validator("egress_hosts")
    @classmethod
    def _exact(cls, hosts: tuple[str, ...] | None) -> tuple[str, ...] | None:
        try:
            return None if hosts is None else tuple(sorted(map(host_name, hosts)))
        except HostRefused as error:
            raise ValueError(str(error)) from None

    @field_validator("preview_base")
    @classmethod
    def _named(cls, base: str | None) -> str | None:
        parts = urlsplit(base or "https://x.y")
        name = parts.hostname or ""
        if (
            parts.scheme not in ("http", "https")
            or parts.path.strip("/")
            or name.replace(".", "").isdecimal()
        ):
            raise ValueError(
                "an http(s):// address of a host name that has subdomains, such as https://preview.example.org"
            )
        return base

    def preview_links(self) -> PreviewLinks | None:
        """Return the object that signs links to previews. Returns None when `preview_base` is not set: previews then
        have the URLs of the sandbox driver, such as E2B.
        """
        if self.preview_base is None:
            return None
        key = hmac.new(self.snapshot_key.get_secret_value().encode(), b"preview links", "sha256").digest()
        return PreviewLinks(self.preview_base.rstrip("/"), key)

    @property
    def reachable_hosts(self) -> frozenset[str] | None:
        """The hosts that every build may reach, or None when sandboxes have no network."""
        if self.egress == "none":
            return None
        return PUBLIC_REGISTRIES if self.egress_hosts is None else frozenset(self.egress_hosts)

    @property
    def secret_directory(self) -> Path:
        return (self.secrets_dir or self.home / "secrets").absolute()
