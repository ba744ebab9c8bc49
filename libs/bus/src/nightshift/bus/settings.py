"""Settings of the connection to the broker and of the consumers."""

from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from nightshift.contracts.principals import RequestKeys
from nightshift.contracts.topics import Topics
from nightshift.eventlog.settings import PREFIX, Environment


class KafkaSettings(Environment):
    """The address and credentials of the broker, the limits of consumers, and the delays of retries."""

    # Addresses of brokers, separated by commas.
    kafka_bootstrap: str = Field(min_length=1, examples=["127.0.0.1:9092"])
    # The first part of the names of all topics and consumer groups of the installation.
    topic_prefix: str = Field("nightshift", pattern=r"^[A-Za-z0-9._-]{1,100}$")
    kafka_idempotence: bool = True  # the embedded broker has no idempotent producer
    # For the embedded broker, which does not answer a waiting fetch when records arrive.
    kafka_adaptive_fetch: bool = False
    # The codec of the batches that are sent.
    kafka_compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    # Whether connections are encrypted (SSL) and log in with a password (SASL).
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    # How the password is proven.
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    # Required with SASL.
    kafka_sasl_username: str | None = None
    # Required with SASL.
    kafka_sasl_password: SecretStr | None = None
    # The authorities that sign the brokers' certificates, as PEM. None: those of the system.
    kafka_ssl_ca_file: Path | None = None
    # The certificate of this client, as PEM, for brokers that demand one.
    kafka_ssl_cert_file: Path | None = None
    # The key of that certificate.
    kafka_ssl_key_file: Path | None = None
    # The password of that key.
    kafka_ssl_key_password: SecretStr | None = None
    kafka_max_message_bytes: int = Field(1_048_576, ge=16_384)  # the largest message that the broker accepts
    # The most records that a consumer takes at once.
    kafka_max_poll_records: int = Field(500, ge=1, le=10_000)
    # A consumer that takes nothing for so long loses its partitions.
    kafka_max_poll_interval_s: float = Field(60.0, gt=0)
    kafka_session_timeout_s: float | None = Field(None, gt=0)  # None: 10 s, or 2 s with kafka_adaptive_fetch
    request_keys_file: Path | None = None  # None: requests need no signature
    # Attempts at a message with transient errors, before it is dead-lettered.
    retry_attempts: int = Field(5, ge=1)
    # The pause after the first failed attempt at a message. It doubles with each attempt.
    retry_base_s: float = Field(0.2, gt=0)
    # The longest pause between two attempts at a message.
    retry_cap_s: float = Field(10.0, gt=0)

    @cached_property
    def request_keys(self) -> RequestKeys | None:
        """The keys that may sign requests, or None when requests need no signature."""
        file = self.request_keys_file
        return None if file is None else RequestKeys.parse(file.read_bytes())

    @property
    def topics(self) -> Topics:
        """The topic names of this installation."""
        return Topics(prefix=self.topic_prefix)

    @property
    def session_timeout_s(self) -> float:
        """The seconds of silence after which the broker removes a consumer from its group.

        The default is short for the embedded broker, because that broker delays each join by half of this time.
        """
        return self.kafka_session_timeout_s or (2.0 if self.kafka_adaptive_fetch else 10.0)

    @model_validator(mode="after")
    def _keys_can_be_read(self) -> Self:
        try:
            _ = self.request_keys
        except (OSError, ValueError) as error:
            wrong = error.strerror if isinstance(error, OSError) else error
            raise ValueError(f"{PREFIX}REQUEST_KEYS_FILE cannot be used: {wrong}") from None
        return self

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
