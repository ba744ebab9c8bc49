"""The composition root of the snapshotter: the only place that makes its clients."""

from functools import lru_cache
from typing import NoReturn

from nightshift.bus.kafka.consumers import KafkaConsumers
from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.port import Subscription
from nightshift.contracts.model import Owner, PendingKind
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.postgres import PostgresEventLog, log_database
from nightshift.sandboxes.settings import make_driver
from nightshift.sandboxes.snapshots.store import SnapshotStore
from nightshift.servicekit import service
from nightshift.servicekit.pending_poller import PendingPoller
from nightshift.servicekit.worker_pool import WorkerPool
from nightshift.snapshotter.handlers import Handlers
from nightshift.snapshotter.settings import SnapshotterSettings
from nightshift.snapshotter.usecases import Snapshots

NAME = Owner.SNAPSHOTTER.value

#: How late a checkpoint may be heard of under traffic: the agent waits for no snapshot, and a snapshot takes longer.
_MAX_FETCH_DELAY_S = 0.1
#: Projects whose blobs are remembered; those of another are listed again when it is needed.
_PROJECTS = 256


async def start(running: service.Service[SnapshotterSettings]) -> None:
    """Connect, listen, take snapshots."""
    settings = running.settings
    database = log_database(PgConfig(dsn=settings.postgres_dsn.get_secret_value(), application_name=NAME))
    running.on_stop(database.close)
    await database.wait_ready()
    log = PostgresEventLog(database, actor=f"{NAME}/{settings.replica_id}")
    running.on_stop(log.close)
    objects = await running.enter(S3ObjectStore.from_settings(settings))

    @lru_cache(maxsize=_PROJECTS)
    def store_of(project_id: str) -> SnapshotStore:
        return SnapshotStore(objects, settings.project_key(project_id))

    driver = await make_driver(settings)
    snapshots = Snapshots(
        log, driver, store_of, patience=settings.patience(), exclude=settings.snapshot_exclude
    )
    pool = await running.enter(WorkerPool(NAME, limit=settings.snapshot_parallel))
    handlers, topics = Handlers(snapshots, pool), settings.topics
    producer = await running.enter(KafkaProducer(settings, client_id=NAME))
    consumers = await running.enter(
        KafkaConsumers(
            settings,
            [
                Subscription(
                    topics.build,
                    topics.group(NAME, topics.build),
                    handlers.on_builds(),
                    gate=pool,
                    max_fetch_delay_s=_MAX_FETCH_DELAY_S,
                )
            ],
            producer=producer,
            objects=objects,
            dependencies=database.answers,
            database=database,
            client_id=NAME,
        )
    )
    running.ready_when("consumers", lambda: consumers.assigned)
    running.ready_when("database", database.answers)
    running.fail_when(consumers.failed, "a consumer makes no progress")
    running.spawn(
        PendingPoller(log, PendingKind.SNAPSHOT, handlers.on_waiting, gate=pool).run(), name="poller"
    )


def main() -> NoReturn:
    """Run the service until it is told to stop."""
    service.run(NAME, SnapshotterSettings.load, start)
