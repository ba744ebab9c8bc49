"""What every service reads from its environment, once, in its app.py. What is wrong is named, its value never shown."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self, cast

from pydantic import BaseModel, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from nightshift.contracts.topics import Topics
from nightshift.runtime.errors import ConfigurationError
from nightshift.runtime.passwords import password_of

PREFIX = "NIGHTSHIFT_"


def _replica_id() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


class _Environment(BaseSettings):
    """Reads `NIGHTSHIFT_<FIELD>`. An input is never part of an error: it may be a secret in the wrong place."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment. Raises ConfigurationError that names every wrong variable."""
        try:
            return cls(**overrides)
        except ValidationError as error:
            raise _named(error, cls) from None

    def secrets(self) -> Iterator[str]:
        """Every secret value that is set, for the log's masking; of an address also its password by itself."""
        for value in self.__dict__.values():
            if isinstance(value, SecretStr) and (secret := value.get_secret_value()):
                yield secret
                yield from password_of(secret)


class ProcessSettings(_Environment):
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


class PostgresSettings(_Environment):
    """Where the event log is. The DSN may hold a password, so it is kept as a secret."""

    postgres_dsn: SecretStr = Field(examples=["postgresql://nightshift_relay@127.0.0.1:5432/nightshift"])


class KafkaSettings(_Environment):
    """Where the broker is, how to get in, and how to consume from it."""

    kafka_bootstrap: str = Field(min_length=1, examples=["127.0.0.1:9092"])
    topic_prefix: str = Field("nightshift", pattern=r"^[A-Za-z0-9._-]{1,100}$")
    kafka_idempotence: bool = True  # the embedded broker has no idempotent producer
    kafka_adaptive_fetch: bool = False  # for a broker that does not wake a waiting fetch
    kafka_compression: Literal["none", "gzip"] = "none"
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_ca_file: Path | None = None
    kafka_ssl_cert_file: Path | None = None
    kafka_ssl_key_file: Path | None = None
    kafka_ssl_key_password: SecretStr | None = None
    kafka_max_message_bytes: int = Field(1_048_576, ge=16_384)  # what the broker carries
    kafka_max_poll_records: int = Field(500, ge=1, le=10_000)
    kafka_max_poll_interval_s: float = Field(60.0, gt=0)
    kafka_session_timeout_s: float | None = Field(None, gt=0)  # none: 10, or 2 with adaptive fetch
    retry_attempts: int = Field(5, ge=1)  # of a transient error, before the dead letter
    retry_base_s: float = Field(0.2, gt=0)
    retry_cap_s: float = Field(10.0, gt=0)

    @property
    def topics(self) -> Topics:
        """The installation's topics."""
        return Topics(prefix=self.topic_prefix)

    @property
    def session_timeout_s(self) -> float:
        """How long a silent consumer keeps its place. The embedded broker holds each join for half of it."""
        return self.kafka_session_timeout_s or (2.0 if self.kafka_adaptive_fetch else 10.0)

    @model_validator(mode="after")
    def _credentials_belong_together(self) -> Self:
        if self.kafka_security_protocol.startswith("SASL") and not (
            self.kafka_sasl_username and self.kafka_sasl_password
        ):
            raise ValueError(
                f"{PREFIX}KAFKA_SASL_USERNAME and {PREFIX}KAFKA_SASL_PASSWORD are needed with "
                f"{PREFIX}KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol}"
            )
        if (self.kafka_ssl_key_file is None) != (self.kafka_ssl_cert_file is None):
            raise ValueError(
                f"{PREFIX}KAFKA_SSL_CERT_FILE and {PREFIX}KAFKA_SSL_KEY_FILE are set together or not at all"
            )
        return self


class ObjectStoreSettings(_Environment):
    """Where large fields, snapshots and oversized dead letters are. Without an endpoint: the vendor's own."""

    s3_bucket: str = Field(min_length=1, examples=["nightshift"])
    s3_endpoint: str | None = None
    s3_region: str = "us-east-1"
    s3_access_key: str | None = None  # none: the vendor's usual chain of credentials
    s3_secret_key: SecretStr | None = None


class Settings(KafkaSettings, PostgresSettings, ObjectStoreSettings, ProcessSettings):
    """What every service needs; a service adds its own fields in a subclass."""


def _named(error: ValidationError, model: type[BaseModel]) -> ConfigurationError:
    complaints, hint = [], None
    for detail in error.errors(include_url=False, include_input=False, include_context=False):
        field = str(detail["loc"][0]) if detail["loc"] else ""
        variable = _variable(model, field)
        if detail["type"] == "missing":
            complaints.append(f"{variable} is not set")
            hint = hint or f"set {variable}{_such_as(model, field, variable)}"
        elif field:
            complaints.append(f"{variable} is wrong: {detail['msg']}")
            hint = hint or f"correct {variable} in the environment of this process"
        else:
            complaints.append(detail["msg"].removeprefix("Value error, "))
    return ConfigurationError("; ".join(complaints), hint=hint)


def _such_as(model: type[BaseModel], field: str, variable: str) -> str:
    info = model.model_fields.get(field)
    return f", such as {variable}={info.examples[0]}" if info is not None and info.examples else ""


def _variable(model: type[BaseModel], field: str) -> str:
    """The variable of a field: a vendor's own name when the field says so by its alias."""
    info = model.model_fields.get(field)
    if info is not None:
        return f"{PREFIX}{field.upper()}"
    aliased = any(
        cast("str | None", known.validation_alias) == field for known in model.model_fields.values()
    )
    return field if aliased else f"{PREFIX}{field.upper()}"
