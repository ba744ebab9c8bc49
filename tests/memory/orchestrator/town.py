"""A simulated town for builds: orchestrators that crash, a gateway, a budget with days, a model that counts."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from nightshift.contracts.events.budget import BudgetDenied, BudgetGranted, BudgetSettled, WakeRequested
from nightshift.contracts.events.build import (
    BudgetRequested,
    ModelCallFailed,
    ModelCallResponded,
    ModelCallStarted,
    ToolCallRequested,
    Usage,
)
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.events.sandbox import SandboxOpened, ToolCallCompleted
from nightshift.contracts.model import Event, Owner, PendingKind
from nightshift.eventlog.errors import Refused, Unavailable
from nightshift.eventlog.leases.memory import MemoryLeases
from nightshift.eventlog.leases.port import Lease
from nightshift.eventlog.memory import MemoryEventLog, MemoryTables
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.port import NewEvent, PendingItem, RecordedEvent, build_stream
from nightshift.eventlog.prepare import recorded
from nightshift.orchestrator.domain.commands import Answer, CallFailed
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.journal import Journal
from nightshift.orchestrator.ports import CallError, Meter
from nightshift.orchestrator.roster import Roster, RosterSettings
from nightshift.orchestrator.runner import Crew, Runner
from nightshift.orchestrator.usecases import Builds
from nightshift.simulation import World

DAY_S = 30.0
LEASE_S = 6.0
POLICY = Policy(
    grant_microusd=1, first_backoff_s=0.5, attempts=4, provider_sleep_s=30, max_output_tokens=1_000
)


def request(build_id: str) -> BuildRequested:
    return BuildRequested(
        build_id=build_id, project_id="p1", account_id="a1", idea_brief=f"An app named <{build_id}>."
    )


@dataclass
class Town:
    """The servers of the world, and what is known of it from outside."""

    world: World
    build_ids: tuple[str, ...]
    turns: int = 4
    day_limit: int = 250_000
    #: For tests that break something on purpose.
    policy: Policy = POLICY
    tables: MemoryTables = field(default_factory=MemoryTables)
    bodies: dict[str, bytes] = field(default_factory=dict)  # of the object store
    leases: MemoryLeases = field(default_factory=MemoryLeases)
    numbers: dict[str, int] = field(default_factory=dict)
    rosters: list[Roster] = field(default_factory=list)
    asked: Counter = field(default_factory=Counter)  # requests that reached the provider, by build
    effects: Counter = field(default_factory=Counter)  # of tool calls
    reserved: dict[str, tuple[str, int, str]] = field(default_factory=dict)  # lease → build, amount, day
    spent: Counter = field(default_factory=Counter)  # by day

    def log(self, owner: Owner | None, *, remote: bool = True) -> MemoryEventLog:
        wire = self.world if remote else None
        return MemoryEventLog(self.tables, owner=owner, wire=wire, now=self.world.now)

    def events(self, build_id: str) -> list[Event]:
        return [one.data for one in self.recorded(build_id)]

    def recorded(self, build_id: str) -> list[RecordedEvent]:
        stream = self.tables.streams.get(build_stream(build_id))
        return [] if stream is None else [recorded(row) for row in stream.rows]

    @property
    def over(self) -> bool:
        streams = (self.tables.streams.get(build_stream(build_id)) for build_id in self.build_ids)
        return all(stream is not None and stream.closed for stream in streams)

    def tell(self, build_id: str, version: int, *, wake: bool = False) -> None:
        """What the bus would: to every replica, now and then twice, now and then never."""
        for roster in self.rosters:
            if self.world.strikes(0.1):
                continue
            roster.hear(build_id, version)
            if self.world.strikes(0.2):
                roster.hear(build_id, version)

    async def until_over(self) -> None:
        while not self.over:
            await self.beat()

    async def beat(self) -> None:
        """Between two looks of somebody who looks again and again."""
        await asyncio.sleep(self.world.draws.uniform(0.1, 0.6))


@dataclass
class RemoteLeases:
    """Leases over the wire."""

    town: Town

    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        return await self.town.world.remote("acquire", lambda: self.town.leases.acquire(name, owner, ttl=ttl))

    async def renew(self, lease: Lease, *, ttl: float) -> bool:
        return await self.town.world.remote("renew", lambda: self.town.leases.renew(lease, ttl=ttl))

    async def renew_all(self, leases: Sequence[Lease], *, ttl: float) -> Sequence[bool]:
        return await self.town.world.remote("renew_all", lambda: self.town.leases.renew_all(leases, ttl=ttl))

    async def release(self, lease: Lease) -> None:
        await self.town.world.remote("release", lambda: self.town.leases.release(lease))

    async def release_all(self, owner: str) -> int:
        return await self.town.world.remote("release_all", lambda: self.town.leases.release_all(owner))

    async def expired(self, prefix: str, *, limit: int = 1000):
        return await self.town.world.remote("expired", lambda: self.town.leases.expired(prefix, limit=limit))


@dataclass
class Servers:
    """The model, the numbers and the look for unowned builds, as ports of the orchestrator."""

    town: Town

    async def number(self, project_id: str, build_id: str) -> int:
        async def draw() -> int:
            return self.town.numbers.setdefault(build_id, len(self.town.numbers) + 1)

        return await self.town.world.insist("number", draw)

    async def unowned(self, *, limit: int):
        async def look() -> list[str]:
            pending, now = self.town.tables.pending, asyncio.get_running_loop().time()
            asleep = {item.key for item in pending.values() if item.kind is PendingKind.SLEEPER}
            held = self.town.leases._held
            return [
                item.key
                for item in pending.values()
                if item.kind is PendingKind.BUILD
                and item.key not in asleep
                and not ((lease := held.get(f"build/{item.key}")) and lease.owner and lease.expires_at > now)
            ][:limit]

        return await self.town.world.remote("unowned", look)

    async def answer(self, body: bytes, meter: Meter) -> Answer:
        meter.under_way = True
        request = json.loads(body)
        build_id = request["messages"][0]["content"][0]["text"].split("<")[1].split(">")[0]
        town, world = self.town, self.town.world
        town.asked[build_id] += 1
        started = sum(isinstance(event, ModelCallStarted) for event in town.events(build_id))
        assert town.asked[build_id] <= started, "a request left before its reservation was in the log"
        await world.pause()
        if world.strikes(0.1):
            raise CallError(CallFailed("overloaded", "busy", status=529, retry_after_s=1.0))
        meter.usage = Usage(input_tokens=4_000, output_tokens=1)
        await world.pause()
        if world.strikes(0.1):
            raise CallError(CallFailed("stream_cut", "cut", usage=meter.usage, maybe_billed=True))
        said = sum(message["role"] == "assistant" for message in request["messages"])
        return _answer(said, town.turns)


def _answer(said: int, turns: int) -> Answer:
    done = said >= turns
    uses = (
        ()
        if done
        else tuple(
            {
                "type": "tool_use",
                "id": f"toolu_{said}_{index}",
                "name": "bash",
                "input": {"command": f"echo {said}.{index}"},
            }
            for index in range(2)
        )
    )
    return Answer(
        message_id=f"msg_{said}",
        model="scripted-1",
        content=({"type": "text", "text": f"turn {said}"}, *uses),
        stop_reason="end_turn" if done else "tool_use",
        usage=Usage(input_tokens=4_000, output_tokens=200),
        latency_ms=1,
        first_token_ms=1,
    )


async def orchestrate(town: Town, name: str) -> None:
    """One life of a replica: takes the requests that nobody has noted, runs builds until all are over."""
    actor = f"{name}-{town.world.draws.getrandbits(32)}"
    objects = MemoryObjectStore(town.bodies, wire=town.world)
    journal = Journal(town.log(Owner.ORCHESTRATOR), objects, policy=town.policy, actor=actor)
    servers = Servers(town)
    crew = Crew(journal, servers, servers, town.policy, town.world.now)
    roster = Roster(
        RemoteLeases(town),
        servers,
        lambda build_id: Runner(build_id, crew),
        settings=RosterSettings(owner=actor, capacity=1, lease_s=LEASE_S, look_every_s=1.0),
    )
    town.rosters.append(roster)
    keeping = asyncio.create_task(roster.keep())
    builds = Builds(journal, roster, policy=town.policy, clock=town.world.now)
    for build_id in town.build_ids:
        while True:  # the bus delivers again until it is handled
            try:
                await builds.accept(request(build_id))
                break
            except Unavailable:
                await town.world.pause()
    await town.until_over()
    keeping.cancel()
    await roster.close()


async def gateway(town: Town) -> None:
    """Runs each call once and appends its result; a call is asked for again until its result is in."""
    log = town.log(Owner.SANDBOX_GATEWAY)
    opened: set[str] = set()
    while not town.over:
        try:
            for item in await log.pending(PendingKind.TOOL_CALL):
                event = await _opened_by(log, item)
                call = event.data
                assert isinstance(call, ToolCallRequested)
                new = []
                if event.subject not in opened:
                    new.append(
                        NewEvent(SandboxOpened(sandbox_id="s", driver="local", generation=1), event.event_id)
                    )
                result = ToolCallCompleted(
                    call_id=call.call_id,
                    is_error=False,
                    output=f"ran {call.index}",
                    exit_code=0,
                    duration_ms=1,
                )
                town.effects[call.call_id] += 1
                done = await log.append(item.stream_id, [NewEvent(result, event.event_id), *new])
                opened.add(event.subject)
                town.tell(event.subject, done.version)
        except (Unavailable, Refused):
            pass
        await town.beat()


async def budget(town: Town) -> None:
    """One account, days of DAY_S seconds. Each step is one transaction at the server."""
    log = town.log(Owner.BUDGET)
    while not town.over:
        try:
            for item in await log.pending(PendingKind.BUDGET_REQUEST):
                await town.world.remote("answer", lambda item=item: _answer_request(town, item))
            for item in await log.pending(PendingKind.SLEEPER):
                await town.world.remote("settle", lambda item=item: _settle(town, item.stream_id))
                if item.due_at is not None and item.due_at <= town.world.now():
                    await town.world.remote("wake", lambda item=item: _wake(town, item))
        except (Unavailable, Refused):
            pass
        await town.beat()


async def _opened_by(log: MemoryEventLog, item: PendingItem) -> RecordedEvent:
    async for event in log.read_stream(item.stream_id, from_version=item.version, limit=1):
        return event
    raise AssertionError("what is pending is in the log")


async def _answer_request(town: Town, item: PendingItem) -> None:
    log = town.log(Owner.BUDGET, remote=False)
    event = await _opened_by(log, item)
    asked = event.data
    assert isinstance(asked, BudgetRequested)
    number = int(town.world.loop.time() // DAY_S)
    day = f"day-{number}"
    held = sum(amount for _, amount, of in town.reserved.values() if of == day)
    left = town.day_limit - held - town.spent[day]
    amount = min(asked.amount_microusd, left)
    granted = amount >= asked.minimum_microusd
    if granted:
        answer: Event = BudgetGranted(
            lease_id=asked.lease_id,
            account_id="a1",
            day=day,
            amount_microusd=amount,
            left_today_microusd=left - amount,
            day_limit_microusd=town.day_limit,
            expires_at=town.world.now() + timedelta(hours=1),
        )
    else:
        answer = BudgetDenied(
            lease_id=asked.lease_id,
            account_id="a1",
            day=day,
            left_today_microusd=max(left, 0),
            refresh_at=town.world.now() + timedelta(seconds=(number + 1) * DAY_S - town.world.loop.time()),
        )
    if (item.kind, item.key, item.stream_id) not in town.tables.pending:
        return  # answered by a life of ours that is over
    done = await log.append(item.stream_id, [NewEvent(answer, event.event_id)])
    if granted:
        town.reserved[str(asked.lease_id)] = (event.subject, amount, day)
    town.tell(event.subject, done.version)


async def _settle(town: Town, stream_id: str) -> None:
    build_id = stream_id.removeprefix("build-")
    log = town.log(Owner.BUDGET, remote=False)
    for event in town.recorded(build_id):
        grant = event.data
        if not isinstance(grant, BudgetGranted) or str(grant.lease_id) not in town.reserved:
            continue
        cost = spent_under(str(grant.lease_id), town.events(build_id))
        settled = BudgetSettled(
            lease_id=grant.lease_id,
            account_id="a1",
            day=grant.day,
            outcome="posted",
            reserved_microusd=grant.amount_microusd,
            posted_microusd=cost,
            released_microusd=max(grant.amount_microusd - cost, 0),
        )
        await log.append(stream_id, [NewEvent(settled, event.event_id)])
        del town.reserved[str(grant.lease_id)]
        town.spent[grant.day] += cost


async def _wake(town: Town, item: PendingItem) -> None:
    log = town.log(Owner.BUDGET, remote=False)
    event = await _opened_by(log, item)
    woken = await log.append(item.stream_id, [NewEvent(WakeRequested(reason="refresh"), event.event_id)])
    town.tell(event.subject, woken.version)


def spent_under(lease: str, events: list[Event]) -> int:
    """The oracle's own sum: what was started under the lease, at its cost, or its worst case while that is unknown."""
    costs: dict[tuple[int, int], int] = {}
    for event in events:
        if isinstance(event, ModelCallStarted) and str(event.lease_id) == lease:
            costs[event.turn, event.attempt] = event.reserve_microusd
        if isinstance(event, ModelCallResponded | ModelCallFailed) and (event.turn, event.attempt) in costs:
            costs[event.turn, event.attempt] = event.cost_microusd
    return sum(costs.values())
