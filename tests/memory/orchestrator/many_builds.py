"""Many builds on real orchestrators and a real budget service, on a virtual clock and without faults.

The log, leases, ledger and key table are in memory. A relay delivers the facts, a gateway answers tool calls.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from tests.memory.deployment.provider import scripted_answer
from tests.support.memory_ledger import LedgerTables, MemoryLedger
from tests.support.memory_projects import MemoryProjects
from tests.support.memory_provider_key import KeyTable, MemoryProviderKey
from tests.support.memory_unowned_builds import MemoryUnownedBuilds

from nightshift.budget.domain.policy import BudgetPolicy
from nightshift.budget.handlers import Handlers as BudgetHandlers
from nightshift.budget.usecases.account_days import AccountDays
from nightshift.budget.usecases.accounts import Accounts
from nightshift.budget.usecases.grants import Grants
from nightshift.budget.usecases.wake_scheduler import WakeScheduler
from nightshift.budget.usecases.wakes import Wakes
from nightshift.contracts.events.build import ToolCallRequested, Usage
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
from nightshift.orchestrator.domain.commands import Answer, CallFailed
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.handlers import Handlers
from nightshift.orchestrator.ports import CallError, UsageMeter
from nightshift.orchestrator.usecases.build_requests import BuildRequests
from nightshift.orchestrator.usecases.build_scheduler import BuildScheduler, SchedulerSettings
from nightshift.orchestrator.usecases.provider_access import ProviderAccess
from nightshift.orchestrator.usecases.runner import Runner, RunnerDependencies
from nightshift.simulation.loop import SimulatedLoop

START = datetime(2026, 11, 22, tzinfo=UTC)
_CHECKED = "== make test\n3 passed in 0.02s\n== exit code 0\n"


def request(build_id: str, account_id: str = "a1", **more: Any) -> BuildRequested:
    idea = f"An app named <{build_id}>."  # the model finds the build by this name
    return BuildRequested(
        build_id=build_id, project_id=f"p-{account_id}", account_id=account_id, idea_brief=idea, **more
    )


@dataclass
class ManyBuilds:
    """An installation. `refuse` returns the failure of a call with this body, None when it is answered."""

    beat_s: float = 4.0  # between two looks of the gateway, the wakes, and each orchestrator for builds
    turns: int = 3
    replicas: int = 2
    capacity: int = 50
    per_account: int = 100
    policy: Policy = field(default_factory=lambda: Policy(max_output_tokens=1_000))
    period_budget: int = 30 * 10**9
    usage: Usage = field(default_factory=lambda: Usage(input_tokens=4_000, output_tokens=200))
    refuse: Callable[[bytes], CallFailed | None] = lambda body: None
    tables: MemoryTables = field(default_factory=MemoryTables)
    projects: MemoryProjects = field(default_factory=MemoryProjects)
    ledger: LedgerTables = field(default_factory=LedgerTables)
    keys: KeyTable = field(default_factory=KeyTable)
    leases: MemoryLeases = field(default_factory=MemoryLeases)
    key_id: str = "k1"  # of the replicas that start from now on
    calls: int = 0
    accesses: list[ProviderAccess] = field(default_factory=list)
    orchestrators: list[Handlers] = field(default_factory=list)

    def now(self) -> datetime:
        return START + timedelta(seconds=asyncio.get_running_loop().time())

    def log(self, owner: Owner) -> MemoryEventLog:
        return MemoryEventLog(self.tables, owner=owner, now=self.now)

    def history(self) -> list[RecordedEvent]:
        """Every event in the order of the appends."""
        rows = [row for shard in self.tables.shards.values() for row in shard]
        return [recorded(row) for row in sorted(rows, key=lambda row: row.position)]

    def events(self, build_id: str) -> list[Event]:
        stream = self.tables.streams.get(build_stream(build_id))
        return [] if stream is None else [recorded(row).data for row in stream.rows]

    async def until(self, reached: Callable[[], bool], *, within: float) -> None:
        """Wait until `reached` returns True. Raises TimeoutError after `within` virtual seconds."""
        async with asyncio.timeout(within):
            while not reached():  # noqa: ASYNC110 - the clock is virtual, and facts of many kinds may be awaited
                await asyncio.sleep(self.beat_s)

    def has_ended(self, build_id: str) -> bool:
        stream = self.tables.streams.get(build_stream(build_id))
        return stream is not None and stream.closed_at is not None

    def pending(self, kind: PendingKind) -> list[str]:
        return [item.key for item in self.tables.pending.values() if item.kind is kind]

    async def answer(self, body: bytes, meter: UsageMeter) -> Answer:
        """The provider: refuses, or answers after a second."""
        self.calls += 1
        meter.under_way = True
        await asyncio.sleep(1)
        if (refused := self.refuse(body)) is not None:
            raise CallError(refused)
        meter.usage = self.usage
        await asyncio.sleep(1)
        answered = body.count(b'"role":"assistant"')
        answer = scripted_answer(answered, self.turns)
        content = tuple(block for block in answer.content if block.get("name") != "ask_user")
        return replace(answer, content=content, usage=self.usage)

    async def count(self, body: bytes) -> int:
        return len(body) // 4

    async def number(self, project_id: str, build_id: str) -> int:
        return 1 + int(build_id.lstrip("abcdefghijklmnopqrstuvwxyz") or 0)

    async def accept(self, *requests: BuildRequested) -> None:
        for one in requests:
            await self._builds[0].accept(one)

    def start(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Start the services. Returns their tasks, which never end."""
        log = self.log(Owner.BUDGET)
        ledger = MemoryLedger(self.ledger, log, now=self.now)
        days = AccountDays(
            BudgetPolicy(self.period_budget, 30, "UTC", grant_lasts=timedelta(minutes=5), day_seconds=None)
        )
        wakes = Wakes(log, ledger, days)
        grants = Grants(log, ledger, days, on_released=wakes.note_money)
        budget = BudgetHandlers(grants, Accounts(log, ledger, days, wakes), wakes)
        waking = WakeScheduler(log, grants, wakes, wake_jitter_s=1.0, clock=self.now)
        self._builds = [self._orchestrator(f"orch-{number}") for number in range(self.replicas)]
        loops = [self._wake(waking), self._relay(budget), self._gateway()]
        self._running = [group.create_task(one._scheduler.run()) for one in self._builds]
        return [*(group.create_task(loop) for loop in loops), *self._running]

    async def restart(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Replace the orchestrators by new processes. Returns their tasks; ends those of the old ones."""
        for task in self._running:
            task.cancel()
        for one in self._builds:
            await one._scheduler.close()
        self.orchestrators.clear()
        self.accesses.clear()
        self._builds = [self._orchestrator(f"again-{number}") for number in range(self.replicas)]
        self._running = [group.create_task(one._scheduler.run()) for one in self._builds]
        return self._running

    def _orchestrator(self, owner: str) -> BuildRequests:
        repository = EventLogBuildRepository(
            self.log(Owner.ORCHESTRATOR), MemoryObjectStore(), policy=self.policy, actor=owner
        )
        provider = ProviderAccess(MemoryProviderKey(self.keys, self.key_id, now=self.now), clock=self.now)
        self.accesses.append(provider)
        dependencies = RunnerDependencies(repository, self, self, self.policy, self.now, provider)
        scheduler = BuildScheduler(
            self.leases,
            MemoryUnownedBuilds(self.tables, self.leases, self.now),
            lambda build_id: Runner(build_id, dependencies),
            provider=provider,
            settings=SchedulerSettings(
                owner=owner,
                capacity=self.capacity,
                per_account=self.per_account,
                lease_s=60.0,
                look_every_s=self.beat_s,
            ),
        )
        policies = EventLogAccountPolicies(self.log(Owner.ORCHESTRATOR))
        builds = BuildRequests(
            repository,
            scheduler,
            MemoryObjectStore(),
            policies,
            self.projects,
            policy=self.policy,
            clock=self.now,
        )
        self.orchestrators.append(Handlers(builds, scheduler))
        return builds

    async def _wake(self, waking: WakeScheduler) -> None:
        while True:
            await waking.tick(self.now())
            await waking.wakes.wake_for_released_money()
            await asyncio.sleep(self.beat_s)

    async def _relay(self, budget: BudgetHandlers) -> None:
        """Delivers each fact of the log once to every handler."""
        position = 0
        while True:
            await asyncio.sleep(self.beat_s / 4)
            if self.tables.position == position:
                continue
            rows = [row for shard in self.tables.shards.values() for row in shard if row.position > position]
            for row in sorted(rows, key=lambda row: row.position):
                position, event = row.position, recorded(row)
                facts = [budget.on_builds()]
                for one in self.orchestrators:
                    facts += [one.on_sandboxes(), one.on_budgets(), one.on_builds()]
                for handlers in facts:
                    if (handler := handlers.get(type(event.data))) is not None:
                        await handler(event)

    async def _gateway(self) -> None:
        log = self.log(Owner.SANDBOX_GATEWAY)
        while True:
            for item in await log.pending(PendingKind.TOOL_CALL):
                call = log.read_stream(item.stream_id, from_version=item.version, limit=1)
                [asked] = [event async for event in call]
                assert isinstance(asked.data, ToolCallRequested)
                output = "done" if asked.data.purpose == "agent" else _CHECKED
                result = ToolCallCompleted(
                    call_id=asked.data.call_id, is_error=False, output=output, exit_code=0, duration_ms=1
                )
                await log.append(item.stream_id, [NewEvent(result, asked.event_id)])
            await asyncio.sleep(self.beat_s)


def on_a_virtual_clock(
    installation: ManyBuilds, story: Callable[[ManyBuilds], Coroutine[Any, Any, None]]
) -> ManyBuilds:
    """Runs the story beside the services, and stops them after it."""

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            tasks = installation.start(group)
            await story(installation)
            for task in tasks:
                task.cancel()
        for one in installation._builds:
            await one._scheduler.close()

    loop = SimulatedLoop(random.Random(1))
    asyncio.set_event_loop(loop)
    try:
        with structlog.testing.capture_logs():
            loop.run_until_complete(run())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    return installation
