"""Starts the orchestrator: connects it, subscribes it to its topics, and lets it run builds."""

import logging
from datetime import UTC, datetime
from functools import partial
from typing import NoReturn

from nightshift.contracts.model import Owner
from nightshift.eventlog.migrate import role_of
from nightshift.orchestrator.adapters.event_log_policies import EventLogAccountPolicies
from nightshift.orchestrator.adapters.event_log_repository import EventLogBuildRepository
from nightshift.orchestrator.adapters.lazy_model import LazyModel
from nightshift.orchestrator.adapters.postgres import (
    PostgresBuildNumbers,
    PostgresProjects,
    PostgresUnownedBuilds,
)
from nightshift.orchestrator.adapters.provider_key import PostgresProviderKey
from nightshift.orchestrator.adapters.turn_spans import traced
from nightshift.orchestrator.handlers import Handlers
from nightshift.orchestrator.settings import OrchestratorSettings
from nightshift.orchestrator.usecases.build_requests import BuildRequests
from nightshift.orchestrator.usecases.build_scheduler import BuildScheduler
from nightshift.orchestrator.usecases.build_spreading import spread
from nightshift.orchestrator.usecases.provider_access import ProviderAccess
from nightshift.orchestrator.usecases.runner import Runner, RunnerDependencies
from nightshift.servicekit import service
from nightshift.servicekit.application import application
from nightshift.servicekit.connect import actor_of, connect

_now = partial(datetime.now, UTC)
NAME = Owner.ORCHESTRATOR.value
ROLE = role_of(Owner.ORCHESTRATOR)


async def start(running: service.Service[OrchestratorSettings]) -> None:
    """Connect, subscribe, and run builds until the service stops."""
    settings, policy = running.settings, running.settings.policy()
    # Not at INFO, because each model call already is an event of the log.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    services = await connect(running, role=ROLE)
    model = await running.enter(
        LazyModel.of_claude(settings.anthropic_base_url, silence_s=settings.model_silence_s)
    )
    running.fail_when(model.failed, "the model's SDK cannot be loaded")
    repository = EventLogBuildRepository(
        traced(services.log), services.objects, policy=policy, actor=actor_of(running)
    )
    key = PostgresProviderKey(
        services.database,
        settings.provider_key,
        first_probe_s=settings.provider_probe_s,
        longest_probe_s=settings.longest_provider_probe_s,
    )
    provider = ProviderAccess(key)
    dependencies = RunnerDependencies(
        repository, model, PostgresBuildNumbers(services.database), policy, _now, provider
    )
    scheduler = BuildScheduler(
        await services.leases(),
        PostgresUnownedBuilds(services.database),
        lambda build_id: Runner(build_id, dependencies),
        provider=provider,
        settings=settings.scheduler(),
    )
    running.on_stop(lambda: scheduler.close(running.cut_short))
    requests = BuildRequests(
        repository,
        scheduler,
        services.objects,
        EventLogAccountPolicies(services.log),
        PostgresProjects(services.database),
        policy=policy,
        clock=_now,
    )
    handlers = Handlers(requests, scheduler)
    # The builds already run while the consumers join their groups, because the log says what there is to do.
    services.reporter.work, services.reporter.on_drained = lambda: scheduler.work, scheduler.drain
    running.spawn(scheduler.run(), name="build scheduler")
    running.spawn(spread(scheduler, services.reporter, settings.replica_id), name="build spreading")
    await services.consume(handlers.subscriptions(settings.topics, NAME, settings.replica_id))


#: For `faststream run nightshift.orchestrator.app:app`.
app = application(NAME, OrchestratorSettings.load, start)


def main() -> NoReturn:
    """Run the service until it receives SIGTERM or SIGINT."""
    service.run(NAME, OrchestratorSettings.load, start)
