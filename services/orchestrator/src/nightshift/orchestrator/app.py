"""The composition root of the orchestrator: the only place that makes its clients."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NoReturn

from nightshift.bus.kafka.consumers import KafkaConsumers
from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.port import Handler, Subscription
from nightshift.bus.publish_notifications import PostgresWakes
from nightshift.contracts.model import Event, Owner
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.leases.postgres import PostgresLeases
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.postgres import PostgresEventLog, log_database
from nightshift.orchestrator.adapters.event_log_repository import EventLogBuildRepository
from nightshift.orchestrator.adapters.late_model import LateModel
from nightshift.orchestrator.adapters.postgres import PostgresBuildNumbers, PostgresUnownedBuilds
from nightshift.orchestrator.handlers import Handlers
from nightshift.orchestrator.ports import ClosingModel
from nightshift.orchestrator.settings import OrchestratorSettings
from nightshift.orchestrator.usecases.build_scheduler import BuildScheduler
from nightshift.orchestrator.usecases.requests import Builds
from nightshift.orchestrator.usecases.runner import Runner, RunnerDependencies
from nightshift.servicekit import service

NAME = Owner.ORCHESTRATOR.value

#: How late another replica's word about a build may be heard under traffic: a cancel has to take effect in seconds.
_PATIENCE_S = 0.1


def _now() -> datetime:
    return datetime.now(UTC)


async def start(running: service.Service[OrchestratorSettings]) -> None:
    """Connect, listen, run builds."""
    settings, policy = running.settings, running.settings.policy()
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for each request is in the log as an event
    database = log_database(PgConfig(dsn=settings.postgres_dsn.get_secret_value(), application_name=NAME))
    running.on_stop(database.close)
    await database.wait_ready()
    actor = f"{NAME}/{settings.replica_id}"
    log = PostgresEventLog(database, actor=actor)
    running.on_stop(log.close)
    objects = await running.enter(S3ObjectStore.from_settings(settings))
    model = await running.enter(LateModel(lambda: _claude(settings)))
    running.fail_when(model.failed, "the model's SDK cannot be loaded")
    repository = EventLogBuildRepository(log, objects, policy=policy, actor=actor)
    dependencies = RunnerDependencies(repository, model, PostgresBuildNumbers(database), policy, _now)
    leases = PostgresLeases(database)
    if settings.instance is not None:
        await leases.release_all(settings.lease_owner)
    scheduler = BuildScheduler(
        leases,
        PostgresUnownedBuilds(database),
        lambda build_id: Runner(build_id, dependencies),
        settings=settings.scheduler(),
    )
    running.on_stop(scheduler.close)
    handlers = Handlers(Builds(repository, scheduler, policy=policy, clock=_now), scheduler)
    producer = await running.enter(KafkaProducer(settings, client_id=NAME))
    wakes = await running.enter(PostgresWakes(database)) if settings.kafka_adaptive_fetch else None
    consumers = await running.enter(
        KafkaConsumers(
            settings,
            _subscriptions(settings, handlers),
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
    running.spawn(scheduler.keep(), name="scheduler")


def _claude(settings: OrchestratorSettings) -> ClosingModel:
    # Imported here for start-up time: Anthropic's SDK takes longer than all the rest of this service together.
    from nightshift.orchestrator.adapters.claude import ClaudeModel  # noqa: PLC0415

    return ClaudeModel(base_url=settings.anthropic_base_url, silence_s=settings.model_silence_s)


def _subscriptions(settings: OrchestratorSettings, handlers: Handlers) -> list[Subscription]:
    """Requests are shared among the replicas. Facts are heard by each: any of them may run the build.

    On our own topic nearly all is our own word, and no build waits for what another replica says there.
    """
    topics = settings.topics

    def facts(topic: str, hears: Mapping[type[Event], Handler], *, patience_s: float = 0.0) -> Subscription:
        group = f"{topics.group(NAME, topic)}.{settings.replica_id}"
        return Subscription(topic, group, hears, from_now=True, patience_s=patience_s)

    return [
        Subscription(topics.requests, topics.group(NAME, topics.requests), handlers.on_requests()),
        facts(topics.sandbox, handlers.on_sandboxes()),
        facts(topics.budget, handlers.on_budgets()),
        facts(topics.build, handlers.on_builds(), patience_s=_PATIENCE_S),
    ]


def main() -> NoReturn:
    """Run the service until it is told to stop."""
    service.run(NAME, OrchestratorSettings.load, start)
