"""Opens the connections of a service: PostgreSQL, the event log, the object store, the Kafka producer and consumers.

When the service stops, they are closed in reverse order. /readyz reports the database and the consumers.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from nightshift.bus.kafka.consumers import KafkaConsumers
from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.port import Subscription
from nightshift.bus.request_guard import guarded
from nightshift.contracts.model import PendingKind
from nightshift.eventlog.database import Database, PgConfig
from nightshift.eventlog.leases.postgres import PostgresLeases
from nightshift.eventlog.objects.absent import NoObjectStore
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.port import PendingItem
from nightshift.eventlog.postgres import PostgresEventLog, log_database
from nightshift.eventlog.preconditions import check_bucket, check_database
from nightshift.servicekit.consumer_spans import traced
from nightshift.servicekit.event_metrics import EventMetrics
from nightshift.servicekit.membership import GroupMembership
from nightshift.servicekit.pending_poller import PendingPoller
from nightshift.servicekit.replicas import ReplicaReporter
from nightshift.servicekit.service import Service
from nightshift.servicekit.settings import Settings, without_store
from nightshift.servicekit.worker_pool import WorkerPool

S = TypeVar("S", bound=Settings)


def open_database(
    running: Service[S], *, application_name: str | None = None, max_connections: int = 8
) -> Database:
    """Return a database that connects at its first use. It is closed when the service `running` stops.

    PostgreSQL shows `application_name` in pg_stat_activity; the default is the name of the service.
    """
    database = log_database(
        PgConfig(
            dsn=running.settings.postgres_dsn.get_secret_value(),
            application_name=application_name or running.name,
            max_connections=max_connections,
        )
    )
    running.on_stop(database.close)
    return database


async def open_objects(running: Service[S]) -> ObjectStore:
    """Return the object store that the settings name.

    If the settings name none and allow that, returns a store that raises an error at every call. Raises
    ConfigurationError when the bucket does not exist or may not be read.
    """
    if without_store(running.settings):
        return NoObjectStore()
    objects = await running.enter(S3ObjectStore(running.settings))
    await check_bucket(objects)
    return objects


async def connect(running: Service[S], *, role: str | None = None) -> "Connections":
    """Open the database, the event log, the object store and the producer, and check that they are set up.

    If `role` is given, also checks that the database login can act as that role. Raises Unavailable when PostgreSQL
    does not answer in time. Raises ConfigurationError when a setting is wrong, or when the role, migrations or bucket
    are missing.
    """
    settings = running.settings
    database = open_database(running)
    await check_database(database, role)
    running.ready_when("database", database.answers)
    log = PostgresEventLog(database, actor=actor_of(running), observe=EventMetrics())
    running.on_stop(log.close)
    objects = await open_objects(running)
    producer = await running.enter(KafkaProducer(settings, client_id=running.name))
    return Connections(database, log, objects, producer, running, report_replica(running, database))


def report_replica(running: Service[S], database: Database) -> ReplicaReporter:
    """Report this process in the database until the service stops. Returns the reporter."""
    reporter = ReplicaReporter(database, running.settings.replica_id, running.name)
    running.on_stop(reporter.forget)
    running.spawn(reporter.run(), name="replica reporter")
    return reporter


def actor_of(running: Service[S]) -> str:
    """Return the name under which this process appends events, such as `budget/host-17`."""
    return f"{running.name}/{running.settings.replica_id}"


@dataclass(frozen=True, slots=True)
class Connections:
    """The open connections of one service. The function `connect` returns it."""

    database: Database
    log: PostgresEventLog
    objects: ObjectStore
    producer: KafkaProducer
    _running: Service[Any]
    reporter: ReplicaReporter
    membership: GroupMembership = field(default_factory=GroupMembership)

    async def leases(self) -> PostgresLeases:
        """Return an object that acquires leases.

        If the process has an instance name, first releases the leases of a dead process with the same name.
        """
        leases, settings = PostgresLeases(self.database), self._running.settings
        if settings.instance is not None:
            await leases.release_all(settings.lease_owner)
        return leases

    async def pool(self, limit: int, share_of: Callable[[str], str | None]) -> WorkerPool:
        """Return the service's worker pool, which ends with the service, is reported, and pauses during a drain.

        See WorkerPool for `limit` and `share_of`.
        """
        running = self._running
        pool = WorkerPool(running.name, limit=limit, cut_short=running.cut_short, share_of=share_of)
        await running.enter(pool)
        self.reporter.work, self.reporter.on_drained = lambda: pool.work, pool.pause
        return pool

    def poll(
        self,
        kind: PendingKind,
        take: Callable[[PendingItem], Awaitable[None]],
        *,
        gate: WorkerPool,
        every_s: float = 60.0,
    ) -> None:
        """Pass all pending rows of this kind to `take`, now and then every `every_s` seconds (see PendingPoller)."""
        poller = PendingPoller(self.log, kind, take, gate=gate, membership=self.membership, every_s=every_s)
        self._running.spawn(poller.run(), name=f"poller {kind.value}")

    async def consume(self, subscriptions: Sequence[Subscription]) -> None:
        """Start the consumers, and wait until each has joined its group. That can take until the broker drops dead
        members of the group.

        /readyz reports readiness once all consumers have their partitions. The process exits with code 1 when a
        consumer makes no progress. Raises ConfigurationError when the broker refuses the credentials.
        """
        running = self._running
        consumers = await running.enter(
            KafkaConsumers(
                running.settings,
                traced([guarded(one, self.log) for one in subscriptions]),
                producer=self.producer,
                objects=self.objects,
                dependencies=self.database.answers,
                database=self.database,
                on_assigned=self.membership.note_assignment,
                client_id=running.name,
            )
        )
        self.membership.joined = True
        running.brokers.append(consumers.broker)
        running.ready_when("consumers", lambda: consumers.assigned)
        running.fail_when(consumers.failed, "a consumer makes no progress")
