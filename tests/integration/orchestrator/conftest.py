"""A real orchestrator process (or two) on real PostgreSQL, broker, S3 and model server; the other services in the test.

The relay is a real process too. Gateway and budget are a few lines that append real facts under their own roles.
"""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from tests.support.processes import clean_environment
from tests.support.stack import Database
from tests.support.waiting import eventually

from nightshift.contracts.cloudevents import encode_request
from nightshift.contracts.events.budget import BudgetGranted
from nightshift.contracts.events.build import BudgetRequested, ToolCallRequested
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.model import Event, PendingKind
from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import KafkaAddress, S3Address, ScriptedModel
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.errors import Refused
from nightshift.eventlog.port import NewEvent, PendingItem, RecordedEvent, build_stream
from nightshift.eventlog.postgres import PostgresEventLog, log_database

SCENARIO = """
name: orchestrator
turns:
- {at: 0, match: {conversation_contains: endless}, say: "abcdefghijklmnopqrstuvwxyz and so on, for a long time",
   chunk: 1, pause: 0.5}
- {at: 0, match: {conversation_contains: unhurried}, say: "I take my time.", chunk: 3, pause: 0.6,
   calls: [{tool: bash, input: {command: "echo one"}}]}
- {at: 0, match: {conversation_contains: stumbling}, status: 529, times: 1}
- {at: 0, match: {conversation_contains: expired}, status: 401, times: 4}
- {at: 0, match: {conversation_contains: refused}, status: 429, retry_after: 99999999999999, times: 2}
- {at: 0, match: {conversation_contains: stumbling}, say: a text that will not come, cut_after: 4, chunk: 3, once: true}
- at: 0
  match: {conversation_contains: curious}
  calls:
  - {tool: ask_user, input: {question: "Which colour?", options: [blue, green]}}
- at: 0
  match: {conversation_contains: patient}
  calls:
  - {tool: ask_user, input: {question: "Which colour?", deadline_s: 1, default: green}}
- at: 0
  match: {conversation_contains: stocked}
  calls:
  - {tool: stock_of, input: {sku: ladder}, invalid: true}
  - {tool: stock_of, input: {sku: anvil}, invalid: true}
- at: 0
  match: {conversation_contains: guarded}
  calls:
  - {tool: bash, input: {command: "echo one"}}
  - {tool: bash, input: {command: "true && git push"}}
- at: 1
  match: {conversation_contains: guarded, last_result_contains: Not tonight.}
  say: Then I go on without it.
  calls:
  - {tool: bash, input: {command: "echo two"}}
- at: 0
  say: I begin.
  calls:
  - {tool: narrate, input: {phase: code, message: Now the code.}}
  - {tool: bash, input: {command: "echo one"}}
- at: 1
  calls:
  - {tool: bash, input: {command: "echo two"}}
- {at: 2, say: "Done."}
"""


def granted(asked: BudgetRequested) -> BudgetGranted:
    return BudgetGranted(
        lease_id=asked.lease_id,
        account_id=asked.account_id,
        day="2026-11-22",
        amount_microusd=asked.amount_microusd,
        left_today_microusd=10_000_000,
        day_limit_microusd=20_000_000,
        expires_at=datetime.now(UTC) + timedelta(hours=1),
    )


def completed(call: ToolCallRequested) -> ToolCallCompleted:
    output = json.dumps(call.input) if call.purpose == "agent" else "3 passed in 0.02s\n"
    return ToolCallCompleted(call_id=call.call_id, is_error=False, output=output, exit_code=0, duration_ms=1)


@dataclass
class RunningServers:
    """The servers of one test, and the processes that it started."""

    log: PostgresEventLog
    topics: Topics
    kafka: KafkaAddress
    producer: AIOKafkaProducer
    environment: dict[str, str]
    folder: Path
    answering: bool = True  # whether the gateway answers
    grant: Callable[[BudgetRequested], Event] = granted
    complete: Callable[[ToolCallRequested], Event] = completed
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    async def start(self, module: str, name: str, **settings: str) -> None:
        given = {f"NIGHTSHIFT_{key.upper()}": value for key, value in settings.items()}
        with (self.folder / f"{name}.log").open("w") as out:
            self.processes[name] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", f"nightshift.{module}"),
                env=clean_environment(**{**self.environment, **given, "NIGHTSHIFT_REPLICA_ID": name}),
                stderr=out,
                stdout=out,
            )

    async def orchestrator(self, name: str, **settings: str) -> None:
        """Start one and wait until it listens."""
        given = {"build_lease_s": "2", "build_look_every_s": "0.3", **settings}
        await self.start("orchestrator", name, **given)
        await eventually(lambda: "service.started" in self.said(name), timeout=60)

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    async def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async def stop(self, name: str) -> int:
        """Sends SIGTERM and returns the exit code."""
        process = self.processes.pop(name)
        process.terminate()
        return await process.wait()

    async def send(self, request: Event, *, id: str = "1", principal: str | None = None) -> None:
        """Sends a request over Kafka, as a producer does."""
        message = encode_request(request, id=id, source="/test", principal=principal)
        await self.send_raw(message.key, message.value, list(message.headers))

    async def send_raw(self, key: bytes | None, value: bytes | None, headers: list[Any]) -> None:
        await self.producer.send_and_wait(self.topics.requests, value=value, key=key, headers=headers)

    async def recorded(self, build_id: str) -> list[RecordedEvent]:
        return [event async for event in self.log.read_stream(build_stream(build_id))]

    async def types(self, build_id: str) -> list[str]:
        return [event.data.type for event in await self.recorded(build_id)]

    async def reached(
        self, build_id: str, type_: str, timeout: float = 60, *, promised: bool = False
    ) -> list[RecordedEvent]:
        """Waits until the log has an event of this type, and returns all events."""

        async def there() -> list[RecordedEvent] | None:
            events = await self.recorded(build_id)
            return events if any(event.data.type == type_ for event in events) else None

        try:
            return await eventually(there, timeout=timeout, promised=promised)
        except AssertionError as error:
            said = "\n".join(self.said(name)[-3000:] for name in self.processes)
            raise AssertionError(f"{error}; log: {await self.types(build_id)}\n{said}") from None

    async def reached_count(self, build_id: str, type_: str, count: int) -> None:
        """Waits until the log has so many events of this type."""

        async def there() -> bool:
            return (await self.types(build_id)).count(type_) >= count

        await eventually(there, timeout=60, what=f"{count} × {type_}")

    async def serve(self) -> None:
        """Answers everything that is pending, as gateway and budget do."""
        while True:
            for item in await self.log.pending(PendingKind.BUDGET_REQUEST):
                await self._append(item, self.grant)
            if self.answering:
                for item in await self.log.pending(PendingKind.TOOL_CALL):
                    await self._append(item, self.complete)
            await asyncio.sleep(0.01)

    async def _append(self, item: PendingItem, answer: Any) -> None:
        events = self.log.read_stream(item.stream_id, from_version=item.version, limit=1)
        async for event in events:
            with contextlib.suppress(Refused):
                await self.log.append(item.stream_id, [NewEvent(answer(event.data), event.event_id)])


@pytest.fixture
async def servers(
    database: Database, kafka: KafkaAddress, topics: Topics, s3: S3Address, tmp_path: Path
) -> AsyncIterator[RunningServers]:
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    model = ScriptedModel(tmp_path, scenario=tmp_path / "scenario.yaml")
    postgres = log_database(PgConfig(dsn=database.dsn()))
    log = PostgresEventLog(postgres, actor="test")
    environment = {
        "NIGHTSHIFT_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "NIGHTSHIFT_KAFKA_IDEMPOTENCE": str(kafka.idempotence),
        "NIGHTSHIFT_KAFKA_ADAPTIVE_FETCH": str(kafka.adaptive_fetch),
        "NIGHTSHIFT_TOPIC_PREFIX": topics.prefix,
        "NIGHTSHIFT_S3_ENDPOINT": s3.endpoint,
        "NIGHTSHIFT_S3_BUCKET": s3.bucket,
        "NIGHTSHIFT_S3_ACCESS_KEY": s3.access_key,
        "NIGHTSHIFT_S3_SECRET_KEY": s3.secret_key,
        "NIGHTSHIFT_S3_REGION": s3.region,
        "NIGHTSHIFT_MODEL_FIRST_BACKOFF_S": "0.1",
        "ANTHROPIC_BASE_URL": (await model.start()).base_url,
        "ANTHROPIC_API_KEY": "any",
    }
    own = {"NIGHTSHIFT_POSTGRES_DSN": database.dsn("nightshift_orchestrator")}
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap)
    await producer.start()
    one = RunningServers(log, topics, kafka, producer, {**environment, **own}, tmp_path)
    serving = asyncio.create_task(one.serve())
    try:
        await one.start("relay", "relay", postgres_dsn=database.dsn("nightshift_relay"))
        yield one
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        for name in list(one.processes):
            await one.kill(name)
        await producer.stop()
        await model.stop()
        await log.close()
        await postgres.close()
