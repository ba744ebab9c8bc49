"""The settings of a service process."""

import os
import socket
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from nightshift.bus.settings import KafkaSettings
from nightshift.eventlog.settings import Environment, ObjectStoreSettings, PostgresSettings


def _replica_id() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


def _state_home() -> Path:
    given = os.environ.get("XDG_STATE_HOME", "")
    return (Path(given) if given else Path.home() / ".local" / "state") / "nightshift"


class ProcessSettings(Environment):
    """The settings that every process has: logs, the address of its health checks, its name, and the time limit of a
    stop.
    """

    # The least severe level that is logged.
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    # JSON for machines, console for people.
    log_format: Literal["json", "console"] = "json"
    health_port: int = Field(0, ge=0, le=65535)  # of /livez, /readyz and /metrics; 0: no health server
    # The address that the health server listens on.
    health_host: str = "0.0.0.0"  # noqa: S104 - probes come from outside the pod, and the answers hold no data
    # The name of this process in events, logs and leases. No two running processes share it.
    replica_id: str = Field(default_factory=_replica_id, min_length=1, max_length=128)
    # A name that outlives a restart and that no two running processes share, such as the name of a StatefulSet's pod. A
    # starting process releases the leases of the dead process that had the same name.
    instance: str | None = Field(None, min_length=1, max_length=128)
    # Absolute folder of local sandboxes and secrets; the same at every start. Commands begin at `.nightshift`.
    home: Path = Field(default_factory=_state_home)
    # The most seconds between SIGTERM and the exit. Model and tool calls in flight may finish in all but the last 4.
    # Shorter than the time after which whoever sent SIGTERM kills: Kubernetes waits for 30 s unless told otherwise.
    stop_timeout_s: float = Field(28.0, gt=0)

    @field_validator("home")
    @classmethod
    def _is_absolute(cls, home: Path) -> Path:
        if not home.is_absolute():
            raise ValueError("it must be absolute, because a process may start in any folder")
        return home

    @property
    def lease_owner(self) -> str:
        """The owner name in the leases that this process acquires."""
        return self.instance or self.replica_id


class Settings(KafkaSettings, PostgresSettings, ObjectStoreSettings, ProcessSettings):
    """The settings that every service has. A service adds its own fields in a subclass."""


class SettingsWithoutStore(Settings):
    """The settings of a service for which the object store is optional.

    The service stores nothing in it and rarely reads from it. Without `s3_bucket` it runs without an object store.
    """

    s3_bucket: str | None = Field(None, min_length=1)  # type: ignore[assignment]


def without_store(settings: ObjectStoreSettings) -> bool:
    """Return whether the service runs without an object store: its settings are a SettingsWithoutStore without a
    bucket.

    Other settings always have a bucket; loading them without one raises ConfigurationError.
    """
    return isinstance(settings, SettingsWithoutStore) and settings.s3_bucket is None
