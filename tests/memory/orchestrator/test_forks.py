"""Requests for forks and rewinds, as the use cases take them: once, from the log of the base, refused by field."""

import asyncio
from collections.abc import Coroutine
from typing import Any
from uuid import UUID, uuid5

import pytest
from tests.support.memory_projects import MemoryProjects
from tests.unit.orchestrator.build_scenario import NOW, REQUEST, BuildScenario, begun, text, tool_use

from nightshift.contracts.events.build import BuildForked, BuildRewound, CheckpointSaved
from nightshift.contracts.events.requests import BuildRequested, BuildRewindRequested, ForkPoint
from nightshift.contracts.events.sandbox import SandboxOpened
from nightshift.contracts.events.snapshot import SnapshotSaved
from nightshift.eventlog.errors import BadMessage, EventIdReused, NotFound, Refused
from nightshift.eventlog.memory import MemoryEventLog
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.port import NewEvent, RecordedEvent, build_stream
from nightshift.orchestrator.adapters.event_log_policies import EventLogAccountPolicies
from nightshift.orchestrator.adapters.event_log_repository import EventLogBuildRepository
from nightshift.orchestrator.domain.commands import PauseBuild
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.usecases.build_requests import BuildRequests

PAUSE = UUID(int=71)
FORK = REQUEST.model_copy(update={"build_id": "b2", "base_build_id": "b1", "at": ForkPoint(turn=2)})


class NoScheduler:
    """Starts nothing. Counts how often it is told that a build was accepted."""

    def __init__(self) -> None:
        self.looks = 0

    def look(self) -> None:
        self.looks += 1

    async def start(self, build_id: str) -> None: ...

    def notify(self, build_id: str, version: int) -> None: ...


class Rig:
    """The use cases over a log that holds a paused build of four turns, with texts beyond the inline limit."""

    def __init__(self) -> None:
        self.log = MemoryEventLog(now=lambda: NOW)
        self.objects = MemoryObjectStore()
        self.scheduler = NoScheduler()
        repository = EventLogBuildRepository(self.log, self.objects, policy=Policy(), actor="test")
        self.requests = BuildRequests(
            repository,
            self.scheduler,  # type: ignore[arg-type]
            self.objects,
            EventLogAccountPolicies(self.log),
            MemoryProjects(),
            policy=Policy(),
            clock=lambda: NOW,
        )

    async def fill(self) -> "Rig":
        for event in _paused().log:
            await self.log.append(
                build_stream("b1"), [NewEvent(event.data, event.causation_id, index=event.version)]
            )
        return self

    async def events(self, build_id: str) -> list[RecordedEvent]:
        return [event async for event in self.log.read_stream(build_stream(build_id))]

    def rewind(self, turn: int, name: str = "r") -> Coroutine[Any, Any, None]:
        request = BuildRewindRequested(build_id="b1", at=ForkPoint(turn=turn))
        event = RecordedEvent(
            *(uuid5(PAUSE, name), build_stream("b1"), 0, request, "b1", PAUSE, "a person", None, NOW)
        )
        return self.requests.rewind(event, request)


def _paused() -> BuildScenario:
    scenario = begun()
    scenario.others(SandboxOpened(sandbox_id="s0", driver="local", generation=0))
    for turn in range(1, 5):
        scenario.thinks(text("x" * 40_000), tool_use(given={"command": f"make {turn}"}, id=f"toolu_{turn}"))
        scenario.results(output=f"made {turn}")
        scenario.do(PauseBuild(None, cause=PAUSE)) if turn == 4 else None
    for event in list(scenario.log):
        if isinstance(event.data, CheckpointSaved):
            scenario.others(_snapshot(event.version))
    return scenario


def _snapshot(version: int) -> SnapshotSaved:
    return SnapshotSaved(
        reason="checkpoint",
        at_version=version,
        tree_digest="sha256:" + "0" * 64,
        files=1,
        bytes=1,
        uploaded_bytes=1,
        key=f"projects/p1/builds/b1/{version}",
    )


def _run(work) -> None:
    async def main() -> None:
        await work(await Rig().fill())

    asyncio.run(main())


def test_a_fork_is_accepted_once_and_its_base_stays_as_it_was():
    async def check(rig: Rig) -> None:
        before = await rig.events("b1")
        await rig.requests.accept(FORK)
        first = await rig.events("b2")
        await rig.requests.accept(FORK)
        assert await rig.events("b2") == first
        assert await rig.events("b1") == before
        assert rig.scheduler.looks == 2
        forked = next(one.data for one in first if isinstance(one.data, BuildForked))
        assert not isinstance(forked.conversation, dict), "a long conversation is kept by reference"
        with pytest.raises(EventIdReused):
            await rig.requests.accept(FORK.model_copy(update={"at": ForkPoint(turn=3)}))
        base = next(one for one in before if one.data.type == "checkpoint.saved" and one.data.turn == 2)
        assert (forked.at_version, forked.snapshot_key) == (
            base.version,
            f"projects/p1/builds/b1/{base.version}",
        )

    _run(check)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"base_build_id": "b9"}, NotFound),
        ({"at": ForkPoint(turn=7)}, BadMessage),
        ({"idea_brief": "Something else."}, BadMessage),
        ({"model": "claude-opus-4-1"}, BadMessage),
    ],
)
def test_a_fork_that_cannot_start_is_refused_and_leaves_nothing(change: dict, error: type[Exception]):
    async def check(rig: Rig) -> None:
        request: BuildRequested = FORK.model_copy(update=change)
        with pytest.raises(error):
            await rig.requests.accept(request)
        assert await rig.events("b2") == []

    _run(check)


def test_a_rewind_is_recorded_once():
    async def check(rig: Rig) -> None:
        await rig.rewind(2)
        await rig.rewind(2)  # the same message again
        rewound = [one.data for one in await rig.events("b1") if isinstance(one.data, BuildRewound)]
        assert [one.to_turn for one in rewound] == [2]
        await rig.rewind(1, "another")
        assert (await rig.events("b1"))[-1].data.type == "build.rewound"
        with pytest.raises(BadMessage):
            await rig.rewind(9, "too far")

    _run(check)


def test_a_build_that_runs_is_not_rewound():
    async def check(rig: Rig) -> None:
        await rig.requests.accept(FORK)
        request = BuildRewindRequested(build_id="b2", at=ForkPoint(turn=2))
        event = RecordedEvent(*(PAUSE, build_stream("b2"), 0, request, "b2", PAUSE, "a person", None, NOW))
        with pytest.raises(Refused):
            await rig.requests.rewind(event, request)
        assert not any(isinstance(one.data, BuildRewound) for one in await rig.events("b2"))

    _run(check)
