"""The composition root of the budget service: the only place that makes its clients."""

from typing import NoReturn

from nightshift.budget.adapters.postgres import PostgresLedger
from nightshift.budget.clockwork import Clockwork
from nightshift.budget.handlers import Handlers
from nightshift.budget.settings import BudgetSettings
from nightshift.budget.usecases import Budget
from nightshift.bus.kafka.consumers import KafkaConsumers
from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.port import Subscription
from nightshift.bus.publish_notifications import PostgresWakes
from nightshift.contracts.model import Owner
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.postgres import PostgresEventLog, log_database
from nightshift.servicekit import service

NAME = Owner.BUDGET.value

#: How late a request for money may be heard under traffic. Most facts on the topic are none, and a build asks seldom.
_PATIENCE_S = 0.05


async def start(running: service.Service[BudgetSettings]) -> None:
    """Connect, listen, tick."""
    settings = running.settings
    database = log_database(PgConfig(dsn=settings.postgres_dsn.get_secret_value(), application_name=NAME))
    running.on_stop(database.close)
    await database.wait_ready()
    log = PostgresEventLog(database, actor=f"{NAME}/{settings.replica_id}")
    running.on_stop(log.close)
    budget = Budget(log, PostgresLedger(database, log), settings.policy())
    handlers, topics = Handlers(budget), settings.topics

    producer = await running.enter(KafkaProducer(settings, client_id=NAME))
    objects = await running.enter(S3ObjectStore.from_settings(settings))
    wakes = await running.enter(PostgresWakes(database)) if settings.kafka_adaptive_fetch else None
    consumers = await running.enter(
        KafkaConsumers(
            settings,
            [
                Subscription(topics.requests, topics.group(NAME, topics.requests), handlers.on_requests()),
                Subscription(
                    topics.build,
                    topics.group(NAME, topics.build),
                    handlers.on_builds(),
                    patience_s=_PATIENCE_S,
                ),
            ],
            producer=producer,
            objects=objects,
            ground=database.answers,
            wakes=wakes,
            client_id=NAME,
        )
    )
    running.ready_when("consumers", lambda: consumers.assigned)
    running.ready_when("database", database.answers)
    running.fail_when(consumers.failed, "a consumer makes no progress")
    running.spawn(Clockwork(log, budget, wake_jitter_s=settings.budget_wake_jitter_s).run(), name="clockwork")


def main() -> NoReturn:
    """Run the service until it is told to stop."""
    service.run(NAME, BudgetSettings.load, start)
