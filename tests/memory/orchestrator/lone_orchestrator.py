"""One real orchestrator on a virtual clock: its log and leases in memory, money for everything, and a counted model."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from tests.support.memory_projects import MemoryProjects
from tests.support.memory_provider_key import KeyTable, MemoryProviderKey
from tests.support.memory_unowned_builds import MemoryUnownedBuilds

from nightshift.contracts.events.budget import BudgetGranted
from nightshift.contracts.events.build import BudgetRequested, BuildStalled, ToolCallRequested
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.model import Event, Owner, PendingKind
from nightshift.eventlog.leases.memory import MemoryLeases
from nightshift.eventlog.memory import MemoryEventLog, MemoryTables
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.port import NewEvent, RecordedEvent, build_stream
from nightshift.eventlog.prepare import recorded
from nightshift.orchestrator.adapters.event_log_policies import EventLogAccountPolicies
from nightshift.orchestrator.adapters.event_log_repository import EventLogBuildRepository
from nightshift.orchestrator.domain.commands import Answer
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.ports import UsageMeter
from nightshift.orchestrator.usecases.build_requests import BuildRequests
from nightshift.orchestrator.usecases.build_scheduler import BuildScheduler, SchedulerSettings
from nightshift.orchestrator.usecases.provider_access import ProviderAccess
from nightshift.orchestrator.usecases.runner import Runner, RunnerDependencies
from nightshift.simulation.loop import SimulatedLoop

Tools = Callable[[ToolCallRequested], ToolCallCompleted]
POLICY = Policy()
AN_HOUR = 3_600.0
BUILD = "b1"
REQUEST = BuildRequested(build_id=BUILD, project_id="p", account_id="a1", idea_brief="An app.")


class LoneOrchestrator:
    """One orchestrator over a log in memory, a budget that grants what is asked, and a model that is counted."""

    def __init__(
        self,
        respond: Callable[[], Answer],
        request: BuildRequested = REQUEST,
        tools: Tools | None = None,
        policy: Policy = POLICY,
    ) -> None:
        """`tools` gives the result of each tool call. Without it no call has a result."""
        self.tables = MemoryTables()
        self.respond = respond
        self.request = request
        self.tools = tools
        self.ended = asyncio.Event()  # only set when tool calls have results
        self.calls = 0
        log = MemoryEventLog(self.tables, owner=Owner.ORCHESTRATOR, now=self.now)
        self.objects = MemoryObjectStore()
        builds = EventLogBuildRepository(log, self.objects, policy=policy, actor="test")
        provider = ProviderAccess(MemoryProviderKey(KeyTable(), "k", now=self.now), clock=self.now)
        dependencies = RunnerDependencies(builds, self, self, policy, self.now, provider)
        self.leases = leases = MemoryLeases()
        self.scheduler = BuildScheduler(
            leases,
            MemoryUnownedBuilds(self.tables, leases, self.now),
            lambda build_id: Runner(build_id, dependencies),
            provider=provider,
            settings=SchedulerSettings(owner="me"),
        )
        accounts = EventLogAccountPolicies(log)
        self.builds = BuildRequests(
            builds, self.scheduler, self.objects, accounts, MemoryProjects(), policy=policy, clock=self.now
        )

    def now(self) -> datetime:
        return datetime(2026, 11, 22, tzinfo=UTC) + timedelta(seconds=asyncio.get_running_loop().time())

    def recorded(self, build_id: str = BUILD) -> list[RecordedEvent]:
        return [recorded(row) for row in self.tables.streams[build_stream(build_id)].rows]

    def events(self) -> list[Event]:
        return [event.data for event in self.recorded()]

    def stalls(self) -> list[BuildStalled]:
        return [event for event in self.events() if isinstance(event, BuildStalled)]

    def cost(self) -> int:
        return sum(getattr(event, "cost_microusd", 0) for event in self.events())

    async def count(self, body: bytes) -> int:
        return len(body) // 4

    async def answer(self, body: bytes, meter: UsageMeter) -> Answer:
        self.calls += 1
        meter.under_way = True
        await asyncio.sleep(1)
        return self.respond()

    async def number(self, project_id: str, build_id: str) -> int:
        return 1

    async def grant(self) -> None:
        """Grants every request for money, as the budget service does."""
        log = MemoryEventLog(self.tables, owner=Owner.BUDGET, now=self.now)
        while True:
            granted = {event.lease_id for event in self.events() if isinstance(event, BudgetGranted)}
            asked = [event for event in self.events() if isinstance(event, BudgetRequested)]
            for request in (one for one in asked if one.lease_id not in granted):
                grant = BudgetGranted(
                    lease_id=request.lease_id,
                    account_id="a1",
                    day="2026-11-22",
                    amount_microusd=request.amount_microusd,
                    left_today_microusd=10**9,
                    expires_at=self.now() + timedelta(days=1),
                )
                await log.append(build_stream(BUILD), [NewEvent(grant, request.lease_id)])
            await asyncio.sleep(2)

    async def act(self, tools: Tools) -> None:
        """Answers every tool call, as the gateway does."""
        log = MemoryEventLog(self.tables, owner=Owner.SANDBOX_GATEWAY, now=self.now)
        while not self.events()[-1].terminal:
            for item in await log.pending(PendingKind.TOOL_CALL):
                asked = self.recorded()[item.version - 1]
                assert isinstance(asked.data, ToolCallRequested)
                await log.append(item.stream_id, [NewEvent(tools(asked.data), asked.event_id)])
            await asyncio.sleep(1)
        self.ended.set()

    async def run(self) -> None:
        """Accepts the build and lets an hour pass, or the time until it ends when its tool calls have results."""
        await self.builds.accept(self.request)
        tasks = [asyncio.create_task(self.scheduler.run()), asyncio.create_task(self.grant())]
        if self.tools is not None:
            tasks.append(asyncio.create_task(self.act(self.tools)))
        with suppress(TimeoutError):
            async with asyncio.timeout(AN_HOUR):
                await self.ended.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.scheduler.close()


def after_an_hour(
    respond: Callable[[], Answer],
    then: Callable[[LoneOrchestrator], Coroutine[Any, Any, None]] | None = None,
    make: Callable[[], LoneOrchestrator] | None = None,
    **more: Any,
) -> LoneOrchestrator:
    """Runs a build for an hour, and `then` what is given. `respond` is called for each model call.

    `more` goes to LoneOrchestrator, unless `make` makes another one.
    """
    loop = SimulatedLoop(random.Random(1))
    asyncio.set_event_loop(loop)
    try:
        orchestrator = LoneOrchestrator(respond, **more) if make is None else make()
        with structlog.testing.capture_logs():
            loop.run_until_complete(orchestrator.run())
            if then is not None:
                loop.run_until_complete(then(orchestrator))
        return orchestrator
    finally:
        asyncio.set_event_loop(None)
        loop.close()
