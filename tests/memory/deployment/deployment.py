"""A simulated deployment: real orchestrators and a real budget service around stores and outsiders in memory."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from uuid import NAMESPACE_URL, uuid5

from tests.memory.deployment.broker import RelayProgress, SimulatedBroker
from tests.support.memory_ledger import LedgerTables
from tests.support.memory_projects import MemoryProjects
from tests.support.memory_provider_key import KeyTable

from nightshift.budget.domain.policy import BudgetPolicy
from nightshift.budget.usecases.grants import Grants
from nightshift.budget.usecases.wakes import Wakes
from nightshift.contracts.model import Event, Owner, PendingKind
from nightshift.eventlog.leases.memory import MemoryLeases
from nightshift.eventlog.leases.port import Lease
from nightshift.eventlog.memory import MemoryEventLog, MemoryTables
from nightshift.eventlog.port import PendingItem, RecordedEvent, account_stream, build_stream, shard_of
from nightshift.eventlog.prepare import recorded
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import BuildState
from nightshift.simulation import World

ACCOUNT = "a1"
DAY_S = 30.0
#: Microdollars of one day: two or three calls at their worst case.
DAY_LIMIT = 150_000
POLICY = Policy(grant_turns=1, first_backoff_s=0.5, attempts=4, provider_sleep_s=30, max_output_tokens=1_000)
BUDGET_POLICY = BudgetPolicy(
    default_period_budget=DAY_LIMIT * 30,
    default_period_days=30,
    default_time_zone="UTC",
    grant_lasts=timedelta(hours=1),
    day_seconds=DAY_S,
)


@dataclass(frozen=True, slots=True)
class Fixture:
    """The budget service's use cases. A test replaces one to plant a fault."""

    grants: type[Grants] = Grants
    wakes: type[Wakes] = Wakes


@dataclass
class SimulatedDeployment:
    """Everything that outlives a crash of a process, and the history that the invariants judge."""

    world: World
    build_ids: tuple[str, ...]
    turns: int = 4
    policy: Policy = POLICY
    budget_policy: BudgetPolicy = BUDGET_POLICY
    fixture: Fixture = field(default_factory=Fixture)
    projects: MemoryProjects = field(default_factory=MemoryProjects)
    tables: MemoryTables = field(default_factory=MemoryTables)
    ledger: LedgerTables = field(default_factory=LedgerTables)
    broker: SimulatedBroker = field(default_factory=SimulatedBroker)
    relay: RelayProgress = field(default_factory=RelayProgress)
    leases: MemoryLeases = field(default_factory=MemoryLeases)
    keys: KeyTable = field(default_factory=KeyTable)
    refused_from: float | None = None  # the virtual seconds in which the provider refuses the key
    refused_until: float = 0.0
    bodies: dict[str, bytes] = field(default_factory=dict)  # of the object store
    numbers: dict[str, int] = field(default_factory=dict)
    requests_sent: Counter[str] = field(default_factory=Counter)  # to the provider, by build
    requests: list[RecordedEvent] = field(default_factory=list)  # that people have sent
    live: dict[tuple[str, int], BuildState] = field(default_factory=dict)  # of the runs, by build and version
    decoded: dict[str, list[RecordedEvent]] = field(default_factory=dict)  # by build; rows never change
    given_up: set[str] = field(default_factory=set)  # builds whose request nobody sends any more
    outsiders: set[asyncio.Task[None]] = field(default_factory=set)
    over: bool = False

    def log(self, owner: Owner | None, *, remote: bool = True) -> MemoryEventLog:
        """A client of the event log. One that is not remote answers at once."""
        wire = self.world if remote else None
        return MemoryEventLog(self.tables, owner=owner, wire=wire, now=self.world.now)

    def key_is_refused(self) -> bool:
        """Whether the provider refuses the key now."""
        return (
            self.refused_from is not None and self.refused_from <= self.world.loop.time() < self.refused_until
        )

    @property
    def shards(self) -> Sequence[int]:
        """The shards of the streams that this deployment writes."""
        streams = [*map(build_stream, self.build_ids), account_stream(ACCOUNT)]
        return sorted({shard_of(stream) for stream in streams})

    def recorded(self, build_id: str) -> list[RecordedEvent]:
        """The build's events in version order."""
        stream = self.tables.streams.get(build_stream(build_id))
        known = self.decoded.setdefault(build_id, [])
        rows = [] if stream is None else stream.rows
        known += map(recorded, rows[len(known) :])
        return list(known)

    def exists(self, build_id: str) -> bool:
        """Whether the build's stream has an event."""
        return build_stream(build_id) in self.tables.streams

    def events(self, build_id: str) -> list[Event]:
        """The data of the build's events in version order."""
        return [one.data for one in self.recorded(build_id)]

    def history(self) -> list[RecordedEvent]:
        """Every event of the log in the order of the appends."""
        rows = [row for shard in self.tables.shards.values() for row in shard]
        return [recorded(row) for row in sorted(rows, key=lambda row: row.position)]

    def ended(self, build_id: str) -> bool:
        """Whether the build's stream is closed."""
        stream = self.tables.streams.get(build_stream(build_id))
        return stream is not None and stream.closed_at is not None

    @property
    def all_ended(self) -> bool:
        """Whether every build has ended. One that nobody accepted before its deadline never begins."""
        return all(
            self.ended(one) or (one in self.given_up and not self.exists(one)) for one in self.build_ids
        )

    def unused_sandboxes(self) -> list[PendingItem]:
        """The open sandboxes of builds that sleep or have ended and that wait for no snapshot."""
        keys = {(item.kind, item.key) for item in self.tables.pending.values()}
        saving = {key.partition("/")[0] for kind, key in keys if kind is PendingKind.SNAPSHOT}
        return [
            item
            for item in self.tables.pending.values()
            if item.kind is PendingKind.SANDBOX
            and item.key not in saving
            and (self.ended(item.key) or (PendingKind.SLEEPER, item.key) in keys)
        ]

    async def request(self, request: Event, *, name: str, subject: str) -> RecordedEvent:
        """Sends a request to the broker, sometimes twice. The same `name` is the same request again."""
        stream = account_stream(subject) if request.stream == "account" else build_stream(subject)
        cause = uuid5(NAMESPACE_URL, name)
        event = RecordedEvent(
            event_id=cause,
            stream_id=stream,
            version=0,
            data=request,
            correlation_id=subject,
            causation_id=cause,
            actor="person",
            traceparent=None,
            recorded_at=self.world.now(),
        )
        self.requests.append(event)
        times = 2 if self.world.strikes(self.world.profile.redeliveries) else 1
        await self.broker.publish([event] * times)
        return event

    async def beat(self, longest: float = 1.0) -> None:
        """Waits between two polls for at most `longest` seconds."""
        await asyncio.sleep(self.world.draws.uniform(longest / 5, longest))

    async def until_over(self) -> None:
        """Returns when the run is over."""
        while not self.over:
            await self.beat()


@dataclass(frozen=True)
class RemoteLeases:
    """The leases over the wire."""

    world: World
    leases: MemoryLeases

    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        return await self.world.remote("acquire", partial(self.leases.acquire, name, owner, ttl=ttl))

    async def renew(self, lease: Lease, *, ttl: float) -> bool:
        return await self.world.remote("renew", partial(self.leases.renew, lease, ttl=ttl))

    async def renew_all(self, leases: Sequence[Lease], *, ttl: float) -> Sequence[bool]:
        return await self.world.remote("renew_all", partial(self.leases.renew_all, leases, ttl=ttl))

    async def release(self, lease: Lease) -> None:
        await self.world.remote("release", partial(self.leases.release, lease))

    async def release_all(self, owner: str) -> int:
        return await self.world.remote("release_all", partial(self.leases.release_all, owner))

    async def expired(self, prefix: str, *, limit: int = 1000) -> Sequence[Lease]:
        return await self.world.remote("expired", partial(self.leases.expired, prefix, limit=limit))
