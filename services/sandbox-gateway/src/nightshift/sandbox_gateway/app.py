"""The composition root of the sandbox-gateway: the only place that makes its clients."""

import asyncio
from functools import lru_cache
from typing import NoReturn

from nightshift.bus.kafka.consumers import KafkaConsumers
from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.port import Subscription
from nightshift.contracts.model import Owner, PendingKind
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.leases.postgres import PostgresLeases
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.postgres import PostgresEventLog, log_database
from nightshift.sandbox_gateway.adapters.http import HttpProbe
from nightshift.sandbox_gateway.failpoints import FailPoints
from nightshift.sandbox_gateway.handlers import Desk, Handlers
from nightshift.sandbox_gateway.settings import GatewaySettings
from nightshift.sandbox_gateway.usecases.answers import Answers
from nightshift.sandbox_gateway.usecases.boxes import Boxes
from nightshift.sandbox_gateway.usecases.gateway import Gateway, Times
from nightshift.sandbox_gateway.usecases.sweep import Sweep
from nightshift.sandboxes.settings import make_driver
from nightshift.sandboxes.snapshots.store import SnapshotStore
from nightshift.servicekit import service
from nightshift.servicekit.pending_poller import PendingPoller
from nightshift.servicekit.worker_pool import WorkerPool

NAME = Owner.SANDBOX_GATEWAY.value

#: How late a snapshot may be heard of under traffic: only the end of a sandbox follows from it.
_MAX_FETCH_DELAY_S = 0.1


async def start(running: service.Service[GatewaySettings]) -> None:
    """Connect, listen, look what waits."""
    settings = running.settings
    driver = await make_driver(settings)
    database = log_database(PgConfig(dsn=settings.postgres_dsn.get_secret_value(), application_name=NAME))
    running.on_stop(database.close)
    await database.wait_ready()
    log = PostgresEventLog(database, actor=f"{NAME}/{settings.replica_id}")
    running.on_stop(log.close)
    objects = await running.enter(S3ObjectStore.from_settings(settings))
    fail, leases = FailPoints(settings.fail_point), PostgresLeases(database)
    if settings.instance is not None:
        await leases.release_all(settings.lease_owner)
    stores = lru_cache(256)(lambda project: SnapshotStore(objects, settings.project_key(project)))

    pool = await running.enter(WorkerPool(NAME, limit=settings.gateway_builds))
    desk = Desk(pool)
    gateway = Gateway(
        log=log,
        leases=leases,
        owner=settings.lease_owner,
        boxes=Boxes(log, driver, stores, fail),
        answers=Answers(log, objects, settings.secret_values(), fail),
        http=await running.enter(HttpProbe()),
        later=desk.later,
        times=Times(lease=settings.gateway_lease_s),
    )
    desk.serve(gateway)
    handlers, topics = Handlers(desk), settings.topics
    subscriptions = [
        Subscription(topics.build, topics.group(NAME, topics.build), handlers.on_builds(), gate=pool),
        Subscription(
            topics.snapshot,
            topics.group(NAME, topics.snapshot),
            handlers.on_snapshots(),
            max_fetch_delay_s=_MAX_FETCH_DELAY_S,
        ),
    ]
    producer = await running.enter(KafkaProducer(settings, client_id=NAME))
    consumers = await running.enter(
        KafkaConsumers(
            settings,
            subscriptions,
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
    for kind in (PendingKind.TOOL_CALL, PendingKind.SANDBOX):
        poller = PendingPoller(log, kind, desk.take, gate=pool, every_s=settings.gateway_look_s)
        running.spawn(poller.run(), name=f"poller {kind.value}")
    running.spawn(_sweep(Sweep(driver, leases, gateway), settings.gateway_look_s), name="sweep")


async def _sweep(sweep: Sweep, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        await sweep.once()


def main() -> NoReturn:
    """Run the service until it is told to stop."""
    service.run(NAME, GatewaySettings.load, start)
