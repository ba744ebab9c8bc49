"""Settings of a service process: those of every process, and all that a service reads together."""

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
    """What a process of ours needs whatever it does."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    health_port: int = Field(0, ge=0, le=65535)  # 0: no health server
    health_host: str = "0.0.0.0"  # noqa: S104 - probes come from outside the pod; it tells no data
    replica_id: str = Field(default_factory=_replica_id, min_length=1, max_length=128)
    # A name that outlives the process and that no two processes have at once, such as that of a StatefulSet's pod: one
    # that starts under it takes back at once what its dead former self held.
    instance: str | None = Field(None, min_length=1, max_length=128)
    home: Path = Path(".nightshift")
    stop_timeout_s: float = Field(20.0, gt=0)  # for all of an ordered stop

    @property
    def lease_owner(self) -> str:
        """Who holds this process's leases."""
        return self.instance or self.replica_id


class Settings(KafkaSettings, PostgresSettings, ObjectStoreSettings, ProcessSettings):
    """What every service needs; a service adds its own fields in a subclass."""
