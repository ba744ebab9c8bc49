"""A build and a gateway around it, on any log: what the tests of the sandbox-gateway have in common."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from nightshift.contracts.events.build import (
    BuildAccepted,
    BuildCancelled,
    BuildWoken,
    CheckpointSaved,
    SleepRequested,
    ToolCallRequested,
)
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.events.snapshot import SnapshotFailed, SnapshotSaved
from nightshift.contracts.ids import request_cause
from nightshift.contracts.model import Event
from nightshift.eventlog.fold_cache import FoldCache
from nightshift.eventlog.leases.memory import MemoryLeases
from nightshift.eventlog.leases.port import Leases
from nightshift.eventlog.memory import MemoryEventLog
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.port import EventLog, NewEvent, build_stream
from nightshift.sandbox_gateway.domain.sandbox_state import SandboxState, evolve
from nightshift.sandbox_gateway.usecases.build_worker import BuildWorker
from nightshift.sandbox_gateway.usecases.call_runner import CallRunner
from nightshift.sandbox_gateway.usecases.failpoints import FailPoints
from nightshift.sandbox_gateway.usecases.network import NetworkPolicy
from nightshift.sandbox_gateway.usecases.orphan_sweeper import OrphanSweeper
from nightshift.sandbox_gateway.usecases.result_writer import ResultWriter
from nightshift.sandbox_gateway.usecases.sandbox_lifecycle import SandboxLifecycle
from nightshift.sandbox_gateway.usecases.source_delivery import SourceDelivery
from nightshift.sandbox_gateway.usecases.stall_reporter import StallReporter
from nightshift.sandboxes.egress.secret_store import SecretStore
from nightshift.sandboxes.port import SandboxDriver
from nightshift.sandboxes.snapshots.capture import capture
from nightshift.sandboxes.snapshots.manifest import ProjectKey
from nightshift.sandboxes.snapshots.store import SnapshotStore


class FakeProbe:
    """Answers with the status that the test sets; None when nothing is to answer."""

    def __init__(self) -> None:
        self.answer: int | None = 200
        self.asked: list[str] = []

    async def status(self, url: str) -> int | None:
        self.asked.append(url)
        return self.answer


@dataclass
class Gateway(BuildWorker):
    """Collects in `retries` the seconds after which it asks to be called again. A test decides when to call it."""

    retries: list[float] = field(default_factory=list)

    async def work(self, build_id: str) -> float | None:
        retry_s = await BuildWorker.work(self, build_id)
        if retry_s is not None:
            self.retries.append(retry_s)
        return retry_s


@dataclass
class World:
    """One build on one driver."""

    driver: SandboxDriver
    log: EventLog = field(default_factory=MemoryEventLog)
    leases: Leases = field(default_factory=MemoryLeases)
    objects: MemoryObjectStore = field(default_factory=MemoryObjectStore)
    secrets: SecretStore = field(default_factory=lambda: SecretStore(Path("/nowhere")))
    hosts: frozenset[str] | None = frozenset()
    build_id: str = field(default_factory=lambda: f"b{uuid4().hex[:8]}")
    probe: FakeProbe = field(default_factory=FakeProbe)
    looked_again: list[float] = field(default_factory=list)
    turn: int = 0

    @property
    def stream(self) -> str:
        return build_stream(self.build_id)

    def store(self, project_id: str = "p1") -> SnapshotStore:
        return SnapshotStore(self.objects, ProjectKey.derive(b"test", project_id))

    def states(self) -> FoldCache[SandboxState]:
        return FoldCache(self.log, SandboxState, evolve)

    def gateway(self, owner: str = "g1", *, lease_s: float = 6.0, slow_s: float = 8.0) -> BuildWorker:
        """A gateway of its own: no state is shared with another but the log and the leases."""
        fail, states = FailPoints(), self.states()
        stalls = StallReporter(self.log, states, slow_s=slow_s)
        network = NetworkPolicy(self.hosts, self.secrets, "local")
        lifecycle = SandboxLifecycle(self.log, self.driver, self.store, stalls, fail, network)
        writer = ResultWriter(self.log, self.objects, self.secrets.values, fail)
        return Gateway(
            states=states,
            leases=self.leases,
            owner=owner,
            lifecycle=lifecycle,
            calls=CallRunner(lifecycle, writer, self.probe, SourceDelivery(lifecycle, self.objects)),
            stalls=stalls,
            lease_s=lease_s,
            retries=self.looked_again,
        )

    def sweeper(self) -> OrphanSweeper:
        return OrphanSweeper(self.driver, self.leases, self.states(), "g1")

    async def say(self, *events: Event) -> None:
        """Append as the orchestrator or the snapshotter would."""
        await self.log.append(self.stream, [NewEvent(event, uuid4()) for event in events])

    async def accept(self, **more: Any) -> None:
        accepted = BuildAccepted(
            build_id=self.build_id,
            project_id="p1",
            account_id="a1",
            idea_brief="an app",
            model="claude",
            turn_limit=50,
            tool_call_limit=150,
            **more,
        )
        cause = request_cause("build.requested", self.build_id)
        await self.log.append(self.stream, [NewEvent(accepted, cause)])

    async def ask(self, *calls: tuple[str, dict[str, Any]], timeout_s: int = 30, **more: Any) -> list[str]:
        """One turn's tool calls. Returns their ids. `more` are fields of each."""
        self.turn += 1
        asked = [
            ToolCallRequested(
                call_id=f"{self.build_id}/{self.turn}/{index}",
                turn=self.turn,
                index=index,
                tool=tool,
                tool_use_id=f"toolu_{self.turn}_{index}",
                input=value,
                timeout_s=timeout_s,
                **more,
            )
            for index, (tool, value) in enumerate(calls)
        ]
        await self.say(*asked)
        return [one.call_id for one in asked]

    async def run(self, *calls: tuple[str, dict[str, Any]], **more: Any) -> list[ToolCallCompleted]:
        """Ask, let one gateway work, and give the results in the order asked. `more` goes to `ask`."""
        ids = await self.ask(*calls, **more)
        await self.gateway().work(self.build_id)
        results = await self.results()
        assert results.keys() >= set(ids), f"calls wait; looks again in {self.looked_again} s"
        return [results[call_id] for call_id in ids]

    async def bash(self, command: str, **more: Any) -> ToolCallCompleted:
        return (await self.run(("bash", {"command": command, **more})))[0]

    async def prepare(self) -> ToolCallCompleted:
        """The call before the first turn."""
        call_id = f"{self.build_id}/0/0"
        asked = ToolCallRequested(
            call_id=call_id,
            turn=0,
            index=0,
            tool="prepare_workspace",
            tool_use_id="setup",
            input={},
            timeout_s=60,
            purpose="setup",
        )
        await self.say(asked)
        await self.gateway().work(self.build_id)
        return (await self.results())[call_id]

    async def events(self) -> list[Event]:
        return [event.data async for event in self.log.read_stream(self.stream)]

    async def types(self) -> list[str]:
        return [event.type for event in await self.events()]

    async def results(self) -> dict[str, ToolCallCompleted]:
        return {one.call_id: one for one in await self.events() if isinstance(one, ToolCallCompleted)}

    async def head(self) -> int:
        return len(await self.events())

    async def checkpoint(self) -> None:
        await self.say(CheckpointSaved(turn=self.turn))

    async def sleep(self) -> None:
        await self.say(SleepRequested(reason="budget", account_id="a1", wake_at=None))

    async def wake(self) -> None:
        await self.say(BuildWoken(reason="refresh"))

    async def cancelled(self) -> None:
        await self.say(BuildCancelled(reason="enough", cost_microusd=0, turns=1))

    async def box_id(self) -> str:
        state = await self.states().read(self.build_id)
        assert state.sandbox is not None
        return state.sandbox.sandbox_id

    async def save(self, reason: str, **more: Any) -> SnapshotSaved:
        """What the snapshotter does."""
        sandbox = await self.driver.connect(await self.box_id())
        at = await self.head()
        done = await capture(
            sandbox, self.store(), self.build_id, at_version=at, reason=reason, exact=reason != "checkpoint"
        )
        saved = SnapshotSaved(
            reason=reason,
            at_version=at,
            tree_digest=done.tree_digest,
            files=done.files,
            bytes=done.bytes,
            uploaded_bytes=done.uploaded_bytes,
            key=done.key,
        )
        await self.say(saved)
        return saved

    async def save_fails(self, reason: str) -> None:
        await self.say(
            SnapshotFailed(reason=reason, at_version=await self.head(), detail="503", attempt=5, final=True)
        )


async def soon(awaitable: Any, seconds: float = 15) -> Any:
    async with asyncio.timeout(seconds):
        return await awaitable
