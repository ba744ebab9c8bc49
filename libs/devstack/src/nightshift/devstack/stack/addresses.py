"""The addresses of all servers of a stack, and the environment variables that tell services these addresses."""

from collections.abc import Mapping
from dataclasses import dataclass

from nightshift.devstack.errors import BadPlan
from nightshift.devstack.parts.kafka import KafkaAddress
from nightshift.devstack.parts.postgres import PostgresAddress
from nightshift.devstack.parts.s3 import DEFAULT_BUCKET, S3Address
from nightshift.devstack.stack.plan import SERVICES, Plan

#: The services that save or restore snapshots, and so need the snapshot key.
_KEEPS_SNAPSHOTS = frozenset({"sandbox_gateway", "snapshotter"})
#: The API key for the scripted model, which accepts any key.
_SCRIPTED_KEY = "scripted"


@dataclass(slots=True)
class Addresses:
    """The addresses known so far. None means that the server is not started yet, and the user gave no address."""

    postgres: PostgresAddress | str | None = None  # text: the DSN of a given server, used for every role
    kafka: KafkaAddress | None = None
    s3: S3Address | None = None
    model: str | None = None
    snapshot_key: str | None = None  # the home's own; None: the environment has one

    def dsn(self, role: str = "postgres") -> str | None:
        """Return the DSN of the event log for a database role, or None when there is no database."""
        if isinstance(self.postgres, PostgresAddress):
            return self.postgres.dsn(role)
        return self.postgres


def given_addresses(plan: Plan) -> Addresses:
    """Return the addresses of servers that the user runs, from flags and environment variables.

    Raises BadPlan when a variable that should be a number is not one.
    """
    given, environ = plan.given, plan.environ
    found = Addresses(postgres=given.postgres, model=given.model)
    if given.kafka is not None:
        found.kafka = KafkaAddress(
            given.kafka,
            idempotence=_flag(environ, "NIGHTSHIFT_KAFKA_IDEMPOTENCE", default=True),
            adaptive_fetch=_flag(environ, "NIGHTSHIFT_KAFKA_ADAPTIVE_FETCH", default=False),
            partitions=_count(environ, "NIGHTSHIFT_RELAY_TOPIC_PARTITIONS"),
            replication=_count(environ, "NIGHTSHIFT_RELAY_TOPIC_REPLICATION"),
        )
    if given.s3 is not None:
        found.s3 = S3Address(
            given.s3,
            environ.get("NIGHTSHIFT_S3_BUCKET", DEFAULT_BUCKET),
            environ.get("NIGHTSHIFT_S3_ACCESS_KEY", ""),
            environ.get("NIGHTSHIFT_S3_SECRET_KEY", ""),
            environ.get("NIGHTSHIFT_S3_REGION", "us-east-1"),
        )
    return found


def needs_snapshot_key(plan: Plan) -> bool:
    """Return whether the stack must provide its home's snapshot key: a service needs one, and the environment has
    none.
    """
    return bool(_KEEPS_SNAPSHOTS & set(plan.services)) and not plan.environ.get("NIGHTSHIFT_SNAPSHOT_KEY")


def service_environment(plan: Plan, found: Addresses, service: str) -> dict[str, str]:
    """Return the environment of a service: that of this process, overridden by the addresses of the stack."""
    env = {**plan.environ, **kafka_environment(found), "NIGHTSHIFT_HOME": str(plan.home)}
    dsn = found.dsn(SERVICES[service])
    if dsn is not None:
        env["NIGHTSHIFT_POSTGRES_DSN"] = dsn
    if found.s3 is not None:
        env |= {
            "NIGHTSHIFT_S3_ENDPOINT": found.s3.endpoint,
            "NIGHTSHIFT_S3_BUCKET": found.s3.bucket,
            "NIGHTSHIFT_S3_ACCESS_KEY": found.s3.access_key,
            "NIGHTSHIFT_S3_SECRET_KEY": found.s3.secret_key,
            "NIGHTSHIFT_S3_REGION": found.s3.region,
        }
    if found.snapshot_key is not None and service in _KEEPS_SNAPSHOTS:
        env["NIGHTSHIFT_SNAPSHOT_KEY"] = found.snapshot_key
    if found.model is not None:
        env["ANTHROPIC_BASE_URL"] = found.model
        env.setdefault("ANTHROPIC_API_KEY", _SCRIPTED_KEY)
    if plan.starts("model"):
        env["ANTHROPIC_API_KEY"] = _SCRIPTED_KEY  # the scripted model must never receive a real key
    return env


def kafka_environment(found: Addresses) -> dict[str, str]:
    """Return the environment variables for the broker's address and features."""
    if found.kafka is None:
        return {}
    env = {
        "NIGHTSHIFT_KAFKA_BOOTSTRAP": found.kafka.bootstrap,
        "NIGHTSHIFT_KAFKA_IDEMPOTENCE": str(found.kafka.idempotence).lower(),
        "NIGHTSHIFT_KAFKA_ADAPTIVE_FETCH": str(found.kafka.adaptive_fetch).lower(),
    }
    # The embedded broker loses its topics when it dies, so the relay may create them.
    if found.kafka.embedded:
        env |= {
            "NIGHTSHIFT_RELAY_CREATE_TOPICS": "true",
            "NIGHTSHIFT_RELAY_TOPIC_PARTITIONS": str(found.kafka.partitions),
            "NIGHTSHIFT_RELAY_TOPIC_REPLICATION": str(found.kafka.replication),
        }
    return env


def _flag(environ: Mapping[str, str], name: str, *, default: bool) -> bool:
    value = environ.get(name, "").strip().lower()
    return default if not value else value in {"1", "true", "yes", "on"}


def _count(environ: Mapping[str, str], name: str) -> int | None:
    """Return the variable as a number of at least 1, or None when it is not set. Raises BadPlan for any other value."""
    value = environ.get(name, "").strip()
    if not value:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise BadPlan(f"{name}={value} is not a number of at least 1", hint="on a single broker set it to 1")
    return int(value)
