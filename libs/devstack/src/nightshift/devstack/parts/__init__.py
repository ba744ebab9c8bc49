"""The servers of the local stack. Each has `async start()`, which returns its address, `async stop()` and `.pid`."""

from nightshift.devstack.parts.kafka import EmbeddedKafka, KafkaAddress
from nightshift.devstack.parts.model import ModelAddress, ScriptedModel
from nightshift.devstack.parts.postgres import (
    DATABASE,
    SUPERUSER,
    UNSAFE_FAST,
    EmbeddedPostgres,
    PostgresAddress,
)
from nightshift.devstack.parts.s3 import EmbeddedS3, S3Address

__all__ = [
    "DATABASE",
    "SUPERUSER",
    "UNSAFE_FAST",
    "EmbeddedKafka",
    "EmbeddedPostgres",
    "EmbeddedS3",
    "KafkaAddress",
    "ModelAddress",
    "PostgresAddress",
    "S3Address",
    "ScriptedModel",
]
