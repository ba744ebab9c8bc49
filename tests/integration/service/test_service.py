"""A service as a process: stopped, killed, misconfigured and probed. Its log shows no secrets."""

import asyncio
import json
import signal
from pathlib import Path

import asyncpg
import pytest
from tests.support.bus_suite import QUICK, request
from tests.support.stack import Database
from tests.support.tcp_proxy import tcp_proxy
from tests.support.waiting import eventually

from nightshift.bus.dead_letters import DeadLetters
from nightshift.bus.kafka.consumers import KafkaConsumers
from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.kafka.reader import KafkaReader
from nightshift.bus.port import Outgoing, Subscription
from nightshift.bus.settings import KafkaSettings
from nightshift.contracts.events.build import BuildPhaseChanged
from nightshift.contracts.events.requests import BuildRequested
from nightshift.devstack.ports import draw_port
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.port import NewEvent, RecordedEvent
from nightshift.eventlog.postgres import PostgresEventLog, log_database

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(150)]

#: Seconds for a process to start, join its group and do something: on a busy machine its imports alone take ten.
_PATIENCE = 45


async def _send(settings: KafkaSettings, *builds: str, times: int = 1) -> None:
    async with KafkaProducer(settings) as producer:
        for build in builds:
            message = Outgoing.of(settings.topics.requests, request(build))
            await producer.send([message] * times)


async def _notes(database: Database) -> list[str]:
    connection = await asyncpg.connect(database.dsn())
    try:
        rows = await connection.fetch("SELECT stream_id FROM nightshift.events ORDER BY stream_id")
    finally:
        await connection.close()
    return [row["stream_id"] for row in rows]


async def test_sigterm_finishes_the_message_and_exits_0(start_service, kafka_settings, database):
    first = await start_service(hold_s="1.0")
    await _send(kafka_settings, "b1")
    await eventually(lambda: "begun b1" in first.said, timeout=_PATIENCE)
    first.process.send_signal(signal.SIGTERM)
    assert await first.ended() == 0, first.log()
    assert "noted b1" in first.said
    assert await _notes(database) == ["build-b1"]

    second = await start_service()
    await _send(kafka_settings, "b2")
    await eventually(lambda: "noted b2" in second.said, timeout=_PATIENCE)
    assert "begun b1" not in second.said


async def test_faststream_run_starts_and_drains_a_service(start_service, kafka_settings, database):
    folder = str(Path(__file__).parent)
    command = ("-m", "faststream", "run", "noting_service:app", "--app-dir", folder)
    running = await start_service(command=command, hold_s="1.0")
    await _send(kafka_settings, "b1")
    await eventually(lambda: "begun b1" in running.said, timeout=_PATIENCE)
    running.process.send_signal(signal.SIGTERM)
    assert await running.ended() == 0, running.log()
    assert "noted b1" in running.said
    assert await _notes(database) == ["build-b1"]


@pytest.mark.fault
async def test_a_killed_service_handles_the_message_once(start_service, kafka_settings, database):
    first = await start_service(hold_s="60")
    await _send(kafka_settings, "b1")
    await eventually(lambda: "begun b1" in first.said, timeout=_PATIENCE)
    first.process.kill()
    await first.ended()

    second = await start_service()
    await eventually(lambda: "noted b1" in second.said, timeout=_PATIENCE)
    assert await _notes(database) == ["build-b1"]


async def test_a_message_delivered_ten_times_appends_once(kafka, topics, kafka_settings, database):
    pool = log_database(PgConfig(dsn=database.dsn()))
    log = PostgresEventLog(pool, actor="tester", notify=False)
    calls = []

    async def note(event: RecordedEvent) -> None:
        calls.append(event.event_id)
        data = BuildPhaseChanged(from_phase="queued", to_phase="starting")
        await log.append(event.stream_id, [NewEvent(data, event.event_id)])

    # Two groups: both get every copy, which is worse than any rebalance.
    subscriptions = [
        Subscription(topics.requests, f"{topics.prefix}.{name}", {BuildRequested: note})
        for name in ("one", "two")
    ]
    async with (
        KafkaProducer(kafka_settings) as producer,
        KafkaConsumers(
            kafka_settings, subscriptions, producer=producer, objects=MemoryObjectStore(), policy=QUICK
        ),
    ):
        await _send(kafka_settings, "b1", times=10)
        await eventually(lambda: len(calls) == 20, timeout=_PATIENCE)
        await eventually(lambda: _notes(database))
    await pool.close()
    assert len(set(calls)) == 1
    assert await _notes(database) == ["build-b1"]


@pytest.mark.fault
async def test_messages_wait_while_the_database_is_down(start_service, kafka_settings, database):
    server = database.server
    async with tcp_proxy("127.0.0.1", server.port) as proxy:
        dsn = database.dsn().replace(f":{server.port}/", f":{proxy.own_port}/")
        service = await start_service(postgres_dsn=dsn)
        await _send(kafka_settings, "b1")
        await eventually(lambda: "noted b1" in service.said, timeout=_PATIENCE)

        proxy.cut_answers = 1_000_000
        await _send(kafka_settings, *(f"b{n}" for n in range(2, 12)))
        await eventually(lambda: "message.delayed" in service.log(), timeout=_PATIENCE)
        # More failures than any retry allows.
        await eventually(
            lambda: service.said.count("begun b2") + service.said.count("begun b3") > 8, timeout=_PATIENCE
        )
        assert not [line for line in service.said if line.startswith("noted") and line != "noted b1"]
        proxy.cut_answers = 0
        await eventually(
            lambda: sum(line.startswith("noted") for line in service.said) == 11, timeout=_PATIENCE
        )
    assert len(await _notes(database)) == 11
    letters = DeadLetters(
        KafkaReader(kafka_settings), topic=kafka_settings.topics.dead_letter, known_topics=()
    )
    assert await letters.list() == []


async def test_a_missing_setting_is_named_and_exits_with_4(start_service):
    service = await start_service(kafka_bootstrap="", postgres_dsn="")
    assert await service.ended() == 4
    told = json.loads(service.log().splitlines()[-1])
    assert "NIGHTSHIFT_KAFKA_BOOTSTRAP is not set" in told["error"]
    assert "NIGHTSHIFT_POSTGRES_DSN is not set" in told["error"]
    assert told["hint"].startswith("set NIGHTSHIFT_")


async def test_probes_answer_and_the_log_holds_no_secret(start_service, kafka_settings, database):
    port = draw_port()
    secret, password = "sk-very-secret-7f3a", "pg-passw0rd-77"
    dsn = database.dsn().replace("postgres@", f"postgres:{password}@", 1)
    service = await start_service(
        health_port=str(port),
        health_host="127.0.0.1",
        provider_key=secret,
        postgres_dsn=dsn,
        log_level="debug",
    )
    await eventually(lambda: _get(port, "/livez"), timeout=_PATIENCE)
    status, _ = await eventually(lambda: _ready(port), timeout=_PATIENCE)
    assert status == 200
    await _send(kafka_settings, secret)  # as a build id: it comes back in every log line of its handler
    await eventually(lambda: f"noted {secret}" in service.said, timeout=_PATIENCE)
    async with KafkaProducer(kafka_settings) as producer:
        poison = Outgoing(kafka_settings.topics.requests, secret.encode(), b"{", request(secret).headers)
        await producer.send([poison])
    await eventually(lambda: "message.dead_lettered" in service.log())
    metrics = await eventually(lambda: _counted(port, 'nightshift_dead_letters_total{reason="invalid_data"'))
    assert "nightshift_messages_handled_total" in metrics
    assert secret not in metrics
    service.process.send_signal(signal.SIGTERM)
    assert await service.ended() == 0
    log = service.log()
    assert secret not in log
    assert password not in log
    assert all(json.loads(line) for line in log.splitlines())


async def _ready(port: int) -> tuple[int, str] | None:
    status, body = await _get(port, "/readyz")
    return (status, body) if status == 200 else None


async def _counted(port: int, metric: str) -> str | None:
    _, metrics = await _get(port, "/metrics")
    return metrics if metric in metrics else None


async def _get(port: int, path: str) -> tuple[int, str]:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        raise AssertionError(str(error)) from error
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    return int(head.split()[1]), body.decode()
