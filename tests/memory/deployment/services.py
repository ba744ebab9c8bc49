"""The processes of a simulated deployment: real orchestrator and budget service, scripted gateway and snapshotter."""

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from tests.memory.deployment.broker import Consumer
from tests.memory.deployment.deployment import RemoteLeases, SimulatedDeployment
from tests.memory.deployment.provider import Outside
from tests.memory.deployment.replays import ObservedRepository
from tests.support.memory_ledger import MemoryLedger
from tests.support.memory_provider_key import MemoryProviderKey

from nightshift.budget.handlers import Handlers as BudgetHandlers
from nightshift.budget.usecases.account_days import AccountDays
from nightshift.budget.usecases.accounts import Accounts
from nightshift.budget.usecases.wake_scheduler import WakeScheduler
from nightshift.contracts.events.build import ToolCallRequested
from nightshift.contracts.events.sandbox import SandboxClosed, SandboxLost, SandboxOpened, ToolCallCompleted
from nightshift.contracts.events.snapshot import SnapshotFailed, SnapshotSaved
from nightshift.contracts.model import Event, Owner, PendingKind
from nightshift.eventlog.errors import Refused, Unavailable
from nightshift.eventlog.memory import MemoryEventLog
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.port import NewEvent, PendingItem, RecordedEvent
from nightshift.orchestrator.adapters.event_log_policies import EventLogAccountPolicies
from nightshift.orchestrator.handlers import Handlers
from nightshift.orchestrator.usecases.build_requests import BuildRequests
from nightshift.orchestrator.usecases.build_scheduler import BuildScheduler, SchedulerSettings
from nightshift.orchestrator.usecases.provider_access import ProviderAccess
from nightshift.orchestrator.usecases.runner import Runner, RunnerDependencies
from nightshift.snapshotter.domain.workspace import WantedSnapshot, Workspace, evolve

LEASE_S = 6.0
#: The output of a check whose tests pass.
_CHECKED = "== make test\n3 passed in 0.02s\n== exit code 0\n"

E = TypeVar("E", bound=Event)


async def orchestrator(deployment: SimulatedDeployment, name: str) -> None:
    """Runs the handlers, scheduler and runners of an orchestrator replica until it crashes or the run is over."""
    world = deployment.world
    actor = f"{name}-{world.draws.getrandbits(32)}"
    objects = MemoryObjectStore(deployment.bodies, wire=world)
    log = deployment.log(Owner.ORCHESTRATOR)
    repository = ObservedRepository(log, objects, policy=deployment.policy, actor=actor)
    repository.live = deployment.live
    outside = Outside(deployment)
    key = MemoryProviderKey(
        deployment.keys, "k", now=world.now, first_probe_s=4.0, longest_probe_s=15.0, wire=world
    )
    provider = ProviderAccess(key, clock=world.now)
    dependencies = RunnerDependencies(repository, outside, outside, deployment.policy, world.now, provider)
    scheduler = BuildScheduler(
        RemoteLeases(world, deployment.leases),
        outside,
        lambda build_id: Runner(build_id, dependencies),
        provider=provider,
        settings=SchedulerSettings(owner=actor, capacity=2, lease_s=LEASE_S, look_every_s=1.0),
    )
    accounts = EventLogAccountPolicies(log)
    builds = BuildRequests(
        repository,
        scheduler,
        objects,
        accounts,
        deployment.projects,
        policy=deployment.policy,
        clock=world.now,
    )
    handlers = Handlers(builds, scheduler)
    subscriptions = (
        handlers.on_requests(),
        handlers.on_sandboxes(),
        handlers.on_budgets(),
        handlers.on_builds(),
    )
    consumers = [Consumer(world, deployment.broker, name, one) for one in subscriptions]
    await _run(deployment, [scheduler.run(), *(consumer.run() for consumer in consumers)])
    await scheduler.close()


async def budget(deployment: SimulatedDeployment, name: str) -> None:
    """Runs the handlers and the wake scheduler of a budget replica until it crashes or the run is over."""
    world = deployment.world
    log = deployment.log(Owner.BUDGET)
    ledger = MemoryLedger(
        deployment.ledger,
        deployment.log(Owner.BUDGET, remote=False),
        now=world.now,
        wire=world,
        between=world.pause,
    )
    days = AccountDays(deployment.budget_policy)
    wakes = deployment.fixture.wakes(log, ledger, days)
    grants = deployment.fixture.grants(log, ledger, days, on_released=wakes.note_money)
    handlers = BudgetHandlers(grants, Accounts(log, ledger, days, wakes), wakes)
    scheduler = WakeScheduler(log, grants, wakes, wake_jitter_s=1.0, clock=world.now)
    consumers = [
        Consumer(world, deployment.broker, name, one)
        for one in (handlers.on_requests(), handlers.on_builds())
    ]
    await _run(deployment, [scheduler.run(), *(consumer.run() for consumer in consumers)])


async def gateway(deployment: SimulatedDeployment) -> None:
    """Appends one result for each tool call, and closes sandboxes that nobody needs."""
    log = deployment.log(Owner.SANDBOX_GATEWAY)
    while not deployment.over:
        try:
            for item in await log.pending(PendingKind.TOOL_CALL):
                await _answer_call(log, item)
            for item in deployment.unused_sandboxes():
                await _close_sandbox(log, item)
        except (Unavailable, Refused):
            pass
        await deployment.beat()


async def _answer_call(log: MemoryEventLog, item: PendingItem) -> None:
    events = await _read(log, item.stream_id)
    asked = events[item.version - 1]
    assert isinstance(asked.data, ToolCallRequested)
    ended = any(event.data.terminal for event in events)
    opened = [event for event in events if isinstance(event.data, SandboxOpened)]
    gone = [event for event in events if isinstance(event.data, SandboxClosed | SandboxLost)]
    new = []
    if len(opened) == len(gone) and not ended:
        sandbox = SandboxOpened(sandbox_id=f"s{len(opened)}", driver="local", generation=len(opened))
        new.append(NewEvent(sandbox, asked.event_id))
    result = ToolCallCompleted(
        call_id=asked.data.call_id,
        is_error=ended,
        error_kind="cancelled" if ended else None,
        output=_output(asked.data, events),
        exit_code=None if ended else 0,
        duration_ms=1,
    )
    await log.append(
        item.stream_id, [*new, NewEvent(result, asked.event_id)], expected_version=events[-1].version
    )


def _output(asked: ToolCallRequested, events: Sequence[RecordedEvent]) -> str:
    """The first checks of the build b2 find no tests; all other checks execute some."""
    if asked.purpose in ("agent", "judge"):
        return f"ran {asked.index}"
    checks = [one.data.call_id for one in events if getattr(one.data, "purpose", None) == "check"]
    return "no tests found\n" if events[0].subject == "b2" and checks[0] == asked.call_id else _CHECKED


async def _close_sandbox(log: MemoryEventLog, item: PendingItem) -> None:
    events = await _read(log, item.stream_id)
    opened, ended = events[item.version - 1], any(event.data.terminal for event in events)
    assert isinstance(opened.data, SandboxOpened)
    closed = SandboxClosed(sandbox_id=opened.data.sandbox_id, reason="ended" if ended else "asleep")
    await log.append(item.stream_id, [NewEvent(closed, opened.event_id)], expected_version=events[-1].version)


async def snapshotter(deployment: SimulatedDeployment) -> None:
    """Appends the snapshots that the snapshotter's own fold of the build wants."""
    log = deployment.log(Owner.SNAPSHOTTER)
    while not deployment.over:
        try:
            for item in await log.pending(PendingKind.SNAPSHOT):
                workspace = Workspace()
                for event in await _read(log, item.stream_id):
                    workspace = evolve(workspace, event)
                wanted = workspace.next
                if wanted is None:
                    continue
                fact = _snapshot(wanted, workspace.sandbox_id, failed=deployment.world.strikes(0.1))
                await log.append(item.stream_id, [NewEvent(fact, wanted.cause, wanted.attempts + 1)])
        except (Unavailable, Refused):
            pass
        await deployment.beat()


def _snapshot(
    wanted: WantedSnapshot, sandbox_id: str | None, *, failed: bool
) -> SnapshotSaved | SnapshotFailed:
    if failed or sandbox_id is None:
        return SnapshotFailed(
            reason=wanted.reason,
            at_version=wanted.at_version,
            detail="simulated",
            attempt=wanted.attempts + 1,
            final=sandbox_id is None or wanted.reason == "checkpoint",
        )
    return SnapshotSaved(
        reason=wanted.reason,
        at_version=wanted.at_version,
        tree_digest="sha256:" + "0" * 64,
        files=1,
        bytes=1,
        uploaded_bytes=1,
        key=f"snapshots/{wanted.at_version}",
    )


async def _run(deployment: SimulatedDeployment, loops: Sequence[object]) -> None:
    """Runs a process's loops until the run is over. Raises what one of them raises."""
    tasks = [asyncio.create_task(loop) for loop in (*loops, deployment.until_over())]
    done, running = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in running:
        task.cancel()
    for task in done:
        task.result()


async def _read(log: MemoryEventLog, stream_id: str) -> list[RecordedEvent]:
    return [event async for event in log.read_stream(stream_id)]
