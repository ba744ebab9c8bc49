"""What builds cost one replica: the memory of 1,000 active builds on a model that takes 2 s, the time until a build of
10,000 events is taken over, and the time from a person's answer to the next model request.

    python bench/builds.py                    all figures, on the embedded stack
    python bench/builds.py --builds 200       fewer active builds
    python bench/builds.py --only takeover    memory | takeover | answer
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psutil
from steps import Model, Stack, percentile, stack, stream

from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.contracts.events.account import AccountOpened
from nightshift.contracts.events.budget import BudgetGranted
from nightshift.contracts.events.build import (
    BudgetRequested,
    BuildAccepted,
    BuildPhaseChanged,
    BuildWaiting,
    CheckpointSaved,
    ModelCallResponded,
    ModelCallStarted,
    Phase,
    ToolCallRequested,
    Usage,
)
from nightshift.contracts.events.requests import BuildAnswerGiven, BuildRequested
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.model import Event
from nightshift.devstack.parts import EmbeddedPostgres
from nightshift.devstack.stack.steps import create_database
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.migrate import migrate
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.port import NewEvent, build_stream
from nightshift.eventlog.postgres import PostgresEventLog, log_database
from nightshift.orchestrator.adapters.event_log_repository import EventLogBuildRepository
from nightshift.orchestrator.adapters.provider_key import PostgresProviderKey
from nightshift.orchestrator.domain.commands import Answer
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.ports import UsageMeter
from nightshift.orchestrator.usecases.provider_access import ProviderAccess
from nightshift.orchestrator.usecases.runner import Runner, RunnerDependencies
from nightshift.servicekit import logs

_MODEL_S = 2.0
_TURNS = 5
_EVENTS = 10_000
_BATCH = 500
_QUESTION = {"question": "Which colour?", "options": ["blue", "green"]}


class SlowModel(Model):
    """Takes two seconds for each answer. A build whose name begins with `ask` asks a person in its first turn."""

    def __init__(self, delay_s: float) -> None:
        super().__init__()
        self.delay_s = delay_s
        self.bytes: dict[str, int] = {}

    async def reply(self, build: str, turn: int) -> bytes:
        await asyncio.sleep(self.delay_s)
        if build.startswith("ask"):
            return stream(build, turn, "ask_user", _QUESTION)
        return await super().reply(build, turn)


async def memory(builds: int) -> tuple[float, float]:
    """KiB of each active build beyond its transcript, and the transcript."""
    async with (
        stack(None, builds + 8, SlowModel(_MODEL_S)) as running,
        KafkaProducer(running.settings) as producer,
    ):
        await _open_account(running, producer)
        await running.run(producer, 20, 2)  # what the first builds load stays
        process = psutil.Process(running.orchestrator)
        before = process.memory_full_info().uss
        names = [f"b-{uuid4().hex[:10]}" for _ in range(builds)]
        running.model.turns.update(dict.fromkeys(names, _TURNS))
        await running.send(producer, *(_request(name) for name in names))
        for _ in names:  # each build is in the call after its last turn, which is held back
            await running.model.finished.acquire()
        used = process.memory_full_info().uss - before
        transcripts = [await _transcript(running, name) for name in names[:20]]
        running.model.over.set()
    transcript = statistics.mean(transcripts)
    return (used / builds - transcript) / 1024, transcript / 1024


async def _transcript(running: Stack, build: str) -> int:
    """Bytes of what was said in the build: the answers of the model and the results of its calls."""
    total = 0
    async for event in running.log.read_stream(build_stream(build)):
        match event.data:
            case ModelCallResponded():
                total += len(json.dumps(event.data.content))
            case ToolCallCompleted():
                total += len(str(event.data.output))
            case _:
                pass
    return total


async def answers(rounds: int) -> list[float]:
    """Milliseconds from the send of an answer to the first byte of the next model request, once a round."""
    found = []
    async with stack(None, 64, SlowModel(0.0)) as running, KafkaProducer(running.settings) as producer:
        await _open_account(running, producer)
        await running.run(producer, 1, 5)
        for _ in range(rounds):
            name = f"ask-{uuid4().hex[:10]}"
            running.model.turns[name] = 1
            await running.send(producer, _request(name))
            while not await _waits(running, name):
                await asyncio.sleep(0.05)
            began = time.perf_counter()
            await running.send(
                producer, BuildAnswerGiven(build_id=name, question_id=f"{name}/1/0", option="blue")
            )
            await running.model.finished.acquire()
            found.append((running.model.seen[name].asked[1] - began) * 1e3)
        running.model.over.set()
    return found


async def _waits(running: Stack, build: str) -> bool:
    newest = running.log.read_stream(build_stream(build), backwards=True, limit=10)
    return any([isinstance(event.data, BuildWaiting) async for event in newest])


class _Takeover:
    """The ports of a runner whose first model call ends the measurement."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def answer(self, body: bytes, meter: UsageMeter) -> Answer:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def count(self, body: bytes) -> int:
        return len(body) // 4

    async def number(self, project_id: str, build_id: str) -> int:
        return 1


async def takeovers(rounds: int) -> list[float]:
    """Seconds from the start of a run to its model request, for a build of 10,000 events in PostgreSQL."""
    found = []
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-") as folder:
        server = EmbeddedPostgres(Path(folder) / "pg")
        address = await server.start()
        try:
            await create_database(address)
            await migrate(address.dsn())
            database = log_database(PgConfig(dsn=address.dsn()))
            log = PostgresEventLog(database, actor="bench", notify=False)
            for number in range(rounds):
                build = f"long-{number}"
                await _append_long_build(log, build)
                model, policy = _Takeover(), Policy()
                repository = EventLogBuildRepository(log, MemoryObjectStore(), policy=policy, actor="bench")
                dependencies = RunnerDependencies(
                    repository,
                    model,
                    model,
                    policy,
                    lambda: datetime.now(UTC),
                    provider=ProviderAccess(
                        PostgresProviderKey(database, "bench", first_probe_s=60, longest_probe_s=900)
                    ),
                )
                began = time.perf_counter()
                run = asyncio.create_task(Runner(build, dependencies).run())
                waited = asyncio.create_task(model.asked.wait())
                await asyncio.wait({run, waited}, return_when=asyncio.FIRST_COMPLETED)
                found.append(time.perf_counter() - began)
                if run.done():
                    run.result()
                run.cancel()
                await asyncio.gather(run, return_exceptions=True)
            await database.close()
        finally:
            await server.stop()
    return found


async def _append_long_build(log: PostgresEventLog, build: str) -> None:
    """Append a build that has made 2,000 turns, in the events that the services append."""
    stream_id = build_stream(build)
    lease = uuid4()
    events: list[Event] = _opening(build, lease)
    turns = (_EVENTS - len(events)) // 5
    for turn in range(1, turns + 1):
        events += _turn(build, turn, lease)
    for start in range(0, len(events), _BATCH):
        batch = [NewEvent(one, uuid4()) for one in events[start : start + _BATCH]]
        await log.append(stream_id, batch)


def _opening(build: str, lease: object) -> list[Event]:
    return [
        BuildAccepted(
            build_id=build,
            project_id="bench",
            account_id="bench",
            idea_brief="A long build.",
            model="scripted-1",
            turn_limit=10_000,
            tool_call_limit=10_000,
        ),
        BuildPhaseChanged(from_phase=Phase.QUEUED, to_phase=Phase.STARTING),
        BudgetRequested(lease_id=lease, account_id="bench", amount_microusd=10**10, minimum_microusd=1),
        BudgetGranted(
            lease_id=lease,
            account_id="bench",
            day="2026-11-22",
            amount_microusd=10**10,
            left_today_microusd=10**10,
            expires_at=datetime.now(UTC) + timedelta(days=1),
        ),
        BuildPhaseChanged(from_phase=Phase.STARTING, to_phase=Phase.SCAFFOLD),
    ]


def _turn(build: str, turn: int, lease: object) -> Sequence[Event]:
    call_id = f"{build}/{turn}/0"
    use = {"type": "tool_use", "id": f"toolu_{turn}", "name": "bash", "input": {"command": f"step {turn}"}}
    return (
        ModelCallStarted(turn=turn, attempt=1, model="scripted-1", lease_id=lease, reserve_microusd=100_000),
        ModelCallResponded(
            turn=turn,
            attempt=1,
            model="scripted-1",
            message_id=f"msg_{turn}",
            content=({"type": "text", "text": f"Step {turn}. " + "x" * 200}, use),
            stop_reason="tool_use",
            usage=Usage(input_tokens=1_000, output_tokens=100),
            price_version="2026-11-22",
            cost_microusd=4_500,
            latency_ms=1,
            first_token_ms=1,
        ),
        ToolCallRequested(
            call_id=call_id,
            turn=turn,
            index=0,
            tool="bash",
            tool_use_id=f"toolu_{turn}",
            input={"command": f"step {turn}"},
        ),
        ToolCallCompleted(call_id=call_id, is_error=False, output=f"{turn}\n" + "y" * 700, duration_ms=1),
        CheckpointSaved(turn=turn),
    )


def _request(name: str) -> BuildRequested:
    return BuildRequested(
        build_id=name,
        project_id="bench",
        account_id="bench",
        idea_brief=f"[bench {name}] count the steps",
        model="scripted-1",
        proof="none",
    )


async def _open_account(running: Stack, producer: KafkaProducer) -> None:
    await running.send(
        producer, AccountOpened(account_id="bench", period_budget_microusd=10**13, period_days=30)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--builds", type=int, default=1_000, help="active builds at once")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of the times")
    parser.add_argument("--only", choices=["memory", "takeover", "answer"])
    given = parser.parse_args()
    logs.configure(level="warning", format="console")
    print("| figure | measured | aim |\n|---|---|---|")
    if given.only in (None, "takeover"):
        seconds = asyncio.run(takeovers(given.rounds))
        print(
            f"| take-over of a build of {_EVENTS:,} events, s (median, worst) | {statistics.median(seconds):.2f},"
            f" {max(seconds):.2f} | 1.0 |",
            flush=True,
        )
    if given.only in (None, "answer"):
        times = asyncio.run(answers(4 * given.rounds))
        print(
            f"| answer given to next model request, ms (p50, p95) | {statistics.median(times):.0f},"
            f" {percentile(times, 0.95):.0f} | 300 |",
            flush=True,
        )
    if given.only in (None, "memory"):
        beyond, transcript = asyncio.run(memory(given.builds))
        print(
            f"| {given.builds:,} active builds, KiB each beyond a transcript of {transcript:.0f} KiB |"
            f" {beyond:.0f} | 300 |",
            flush=True,
        )


if __name__ == "__main__":
    main()
