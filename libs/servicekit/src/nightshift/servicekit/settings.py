"""The settings of a service process."""

import os
import socket
from pathlib import Path
from typing import Literal

from pydantic import Field

from nightshift.bus.settings import KafkaSettings
from nightshift.eventlog.settings import Environment, ObjectStoreSettings, PostgresSettings


def _replica_id() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


class ProcessSettings(Environment):
    """The settings that every process has: logs, probes, its name, and the time limit of a stop."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    health_port: int = Field(0, ge=0, le=65535)  # 0: no health server
    health_host: str = "0.0.0.0"  # noqa: S104 - probes come from outside the pod, and the answers hold no data
    replica_id: str = Field(default_factory=_replica_id, min_length=1, max_length=128)
    # A name that outlives a restart and that no two running processes share, such as the name of a StatefulSet's pod. A
    # starting process releases the leases of the dead process that had the same name.
    instance: str | None = Field(None, min_length=1, max_length=128)
    home: Path = Path(".nightshift")
    stop_timeout_s: float = Field(20.0, gt=0)  # seconds until an orderly stop is aborted

    @property
    def lease_owner(self) -> str:
        """The owner name in the leases that this process acquires."""
        return self.instance or self.replica_id


class Settings(KafkaSettings, PostgresSettings, ObjectStoreSettings, ProcessSettings):
    """The settings that every service has. A service adds its own fields in a subclass."""
