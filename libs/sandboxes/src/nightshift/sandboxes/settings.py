"""The settings of sandboxes and snapshots, and the choice of the driver. All services that use sandboxes share them."""

import os
from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr

from nightshift.eventlog.errors import ConfigurationError
from nightshift.eventlog.settings import ObjectStoreSettings
from nightshift.sandboxes.egress.process import EgressProcess
from nightshift.sandboxes.local.driver import LocalDriver
from nightshift.sandboxes.local.settings import LocalSettings, SandboxLimits
from nightshift.sandboxes.port import DriverName, SandboxDriver
from nightshift.sandboxes.snapshots.manifest import ProjectKey
from nightshift.servicekit.settings import ProcessSettings


class SandboxSettings(ObjectStoreSettings, ProcessSettings):
    """The settings from `NIGHTSHIFT_SANDBOX_…` and from E2B's own environment variables."""

    sandbox_driver: DriverName | None = None  # none: e2b when E2B_API_KEY is set, else local
    sandbox_dir: Path | None = None  # the folder of local sandboxes; none: `sandboxes` in NIGHTSHIFT_HOME
    sandbox_owner: str = Field(
        "nightshift", min_length=1, max_length=64
    )  # marks this installation's sandboxes
    # The most processes in a local sandbox.
    sandbox_processes: int = Field(512, ge=16)
    # The memory of a local sandbox.
    sandbox_memory_bytes: int = Field(4 * 1024**3, ge=64 * 1024**2)
    sandbox_disk_bytes: int = Field(10 * 1024**3, ge=64 * 1024**2)  # the home of a local sandbox
    sandbox_files: int = Field(1_000_000, ge=10_000)  # the most files and directories in it
    # Folders that local sandboxes see read-only, such as a compiler.
    sandbox_toolchains: tuple[Path, ...] = ()
    # The key of E2B.
    e2b_api_key: SecretStr | None = Field(None, validation_alias=AliasChoices("E2B_API_KEY", "e2b_api_key"))
    # The template of E2B's sandboxes. None: E2B's own.
    e2b_template: str | None = Field(None, validation_alias=AliasChoices("E2B_TEMPLATE", "e2b_template"))
    e2b_internet: bool = False  # whether sandboxes at E2B may reach the internet
    # The lifetime of a sandbox at E2B. It is extended while the sandbox is in use.
    e2b_lifetime_s: int = Field(3600, ge=60, le=86_400)

    @property
    def driver_name(self) -> DriverName:
        return self.sandbox_driver or ("e2b" if self.e2b_api_key is not None else "local")

    def local(self) -> LocalSettings:
        return LocalSettings(
            state_dir=(self.sandbox_dir or self.home / "sandboxes").absolute(),
            owner=self.sandbox_owner,
            limits=SandboxLimits(
                processes=self.sandbox_processes,
                memory_bytes=self.sandbox_memory_bytes,
                disk_bytes=self.sandbox_disk_bytes,
                files=self.sandbox_files,
            ),
            toolchains=self.sandbox_toolchains,
        )


class SnapshotSettings(SandboxSettings):
    """The settings of services that save or restore snapshots. `snapshot_key` must be the same in all of them.

    The digests of every project depend on this key. With another key the services do not find the earlier snapshots. A
    person who knows the key can test whether a project has a certain file.
    """

    # The digests of stored files depend on it. The same in gateway and snapshotter, for the life of the installation.
    snapshot_key: SecretStr = Field(min_length=32, examples=["$(openssl rand -hex 32)"])

    def project_key(self, project_id: str) -> ProjectKey:
        return ProjectKey.derive(self.snapshot_key.get_secret_value().encode(), project_id)


async def make_driver(
    settings: SandboxSettings, egress: EgressProcess | None = None, *, creates: bool = True
) -> SandboxDriver:
    """Create the driver that the settings name. Raises ConfigurationError when it cannot work.

    If `egress` is None, local sandboxes have no network. If `creates`, the local driver first starts a sandbox as a
    test. A service that only connects to sandboxes passes False, because it needs no right to start one.
    """
    if settings.driver_name == "local":
        driver = LocalDriver(settings.local(), egress)
        if creates:
            await driver.probe()
        return driver
    if settings.e2b_api_key is None:
        raise ConfigurationError("E2B_API_KEY is not set", hint="set it, or NIGHTSHIFT_SANDBOX_DRIVER=local")
    # Imported only where it is used, because the import of the SDK takes half a second.
    from nightshift.sandboxes.adapters.e2b import E2BDriver, E2BOptions  # noqa: PLC0415

    return E2BDriver(
        E2BOptions(
            api_key=settings.e2b_api_key.get_secret_value(),
            owner=settings.sandbox_owner,
            template=settings.e2b_template,
            lifetime_s=settings.e2b_lifetime_s,
            internet=settings.e2b_internet,
            api_url=os.environ.get("E2B_API_URL"),
            sandbox_url=os.environ.get("E2B_SANDBOX_URL"),
        )
    )
