"""Each alert rule fires when its fault is caused on a real stack, in a real Prometheus that scrapes it.

The rules are those that are shipped, with their waits and thresholds shortened; promtool tests the true ones.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
import yaml
from tests.support.moody_model import MoodyModel, moody_model
from tests.support.processes import RunningUp
from tests.support.prometheus import ALERTS, Prometheus, prometheus_server
from tests.support.waiting import eventually

from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.port import Outgoing
from nightshift.bus.settings import KafkaSettings
from nightshift.cli.producer import checked, send
from nightshift.contracts.events.account import AccountOpened
from nightshift.contracts.events.build import BuildPhaseChanged, SleepRequested
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.model import Event, Request
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.port import NewEvent, build_stream
from nightshift.eventlog.postgres import PostgresEventLog, log_database

pytestmark = [
    pytest.mark.fault,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not os.environ.get("NIGHTSHIFT_ALERT_FAULTS"), reason="minutes long: `make test-alerts`"
    ),
]


@dataclass(slots=True)
class Lab:
    """A stack under a Prometheus, with a model that does what the test says."""

    stack: dict[str, Any]
    home: Path
    model: MoodyModel
    prometheus: Prometheus

    def process(self, name: str) -> psutil.Process:
        [one, *_] = self.stack["services"].get(name) or [self.stack.get(name)]
        return psutil.Process(one["pid"])

    @contextlib.contextmanager
    def paused(self, name: str) -> Any:
        """Stop a process of the stack for the block, as a machine that hangs does."""
        process = self.process(name)
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def watch(self) -> None:
        """Scrape every service at the port of its health server."""
        jobs = []
        for name in self.stack["services"]:
            ports = [
                one.laddr.port
                for one in self.process(name).net_connections("tcp")
                if one.status == psutil.CONN_LISTEN
            ]
            jobs += [(name, port) for port in ports[:1]]
        self.prometheus.scrape(jobs)

    async def fires(self, alert: str) -> None:
        """Wait until this alert fires."""
        await eventually(lambda: self._fires(alert), timeout=60, what=f"{alert} fires")

    async def rests(self, alert: str) -> None:
        """Wait until this alert does not fire."""
        await eventually(lambda: self._rests(alert), timeout=30, what=f"{alert} rests")

    async def _rests(self, alert: str) -> bool:
        return alert not in await self.prometheus.firing()

    async def _fires(self, alert: str) -> bool:
        return alert in await self.prometheus.firing()

    async def ask(self, kind: type[Request], **fields: Any) -> None:
        await send(self.home, checked(kind, fields))

    async def build(self, account: str = "rich") -> str:
        name = f"b-{uuid4().hex[:8]}"
        await self.ask(
            BuildRequested,
            build_id=name,
            project_id=name,
            account_id=account,
            idea_brief="A page.",
            model="scripted-1",
            proof="none",
        )
        return name


@pytest.fixture
async def lab(stack_folder: Path) -> AsyncIterator[Lab]:
    folder = stack_folder / "alerts"
    folder.mkdir()
    with moody_model() as model, prometheus_server(folder) as prometheus:
        env = {
            "NIGHTSHIFT_BUDGET_WAKE_JITTER_S": "0",
            "ANTHROPIC_API_KEY": "test",
        }
        up = RunningUp(folder / "home", "--model", model.url, env=env)
        try:
            lab = Lab(up.ready(), up.home, model, prometheus)
            lab.watch()
            await lab.ask(AccountOpened, account_id="rich", period_budget_microusd=10**12, period_days=30)
            yield lab
        finally:
            model.over.set()
            up.interrupt()
            up.end()


async def _hung_relay(lab: Lab, alert: str) -> None:
    with lab.paused("relay"):
        await lab.fires(alert)


@contextlib.asynccontextmanager
async def _event_log(lab: Lab) -> AsyncIterator[PostgresEventLog]:
    database = log_database(PgConfig(dsn=lab.stack["postgres"]["dsn"]))
    log = PostgresEventLog(database, actor="test")
    try:
        yield log
    finally:
        await log.close()
        await database.close()


async def _append(log: PostgresEventLog, fact: Event) -> None:
    """Append a fact to the stream of a build of its own."""
    await log.append(build_stream(f"b-{uuid4().hex[:8]}"), [NewEvent(fact, uuid4())])


async def _hung_broker(lab: Lab, alert: str) -> None:
    async with _event_log(lab) as log:
        with lab.paused("kafka"):
            await _append(log, BuildPhaseChanged(from_phase="queued", to_phase="starting"))
            await lab.fires(alert)


async def _broken_request(lab: Lab, alert: str) -> None:
    kafka = lab.stack["kafka"]["bootstrap"]
    settings = KafkaSettings.load(kafka_bootstrap=kafka, kafka_idempotence=False, kafka_adaptive_fetch=True)
    async with KafkaProducer(settings) as producer:
        await producer.send([Outgoing(settings.topics.requests, b"b", b"no json", ())])
        await lab.fires(alert)


async def _hung_budget(lab: Lab, alert: str) -> None:
    async with _event_log(lab) as log:
        wake_at = datetime.now(UTC) + timedelta(seconds=3)
        for _ in range(3):
            await _append(log, SleepRequested(reason="budget", account_id="rich", wake_at=wake_at))
    with lab.paused("budget"):
        await asyncio.sleep(12)  # their time comes and passes
    await lab.fires(alert)


async def _build_with(mood: str, lab: Lab, alert: str) -> None:
    """A build whose model is in this mood."""
    lab.model.mood = mood
    await lab.build()
    await lab.fires(alert)


async def _hung_object_store(lab: Lab, alert: str) -> None:
    lab.model.mood = "echo hello > hello.txt"
    with lab.paused("s3"):
        await lab.build()
        await lab.fires(alert)


async def _stalled_process(lab: Lab, alert: str) -> None:
    for _ in range(6):
        with lab.paused("snapshotter"):
            await asyncio.sleep(1.3)
        await asyncio.sleep(0.7)
    await lab.fires(alert)


#: The fault of each rule. The key's refusal makes all builds wait, so it comes last.
FAULTS: dict[str, Callable[[Lab, str], Awaitable[None]]] = {
    "NightshiftDeadLetters": _broken_request,
    "NightshiftModelCallsFailing": partial(_build_with, "overload"),
    "NightshiftWorkStuck": partial(_build_with, "sleep 600"),
    "NightshiftSnapshotsFailing": _hung_object_store,
    "NightshiftWakesLate": _hung_budget,
    "NightshiftLoopStalls": _stalled_process,
    "NightshiftNoRelayLeader": _hung_relay,
    "NightshiftServiceMissing": _hung_relay,
    "NightshiftRelayBehind": _hung_broker,
    "NightshiftProviderKeyRefused": partial(_build_with, "refuse"),
}


async def test_each_fault_fires_its_alert(lab: Lab) -> None:
    [group] = yaml.safe_load(ALERTS.read_text())["groups"]
    assert set(FAULTS) == {rule["alert"] for rule in group["rules"]}
    await eventually(lambda: _scraped(lab), timeout=60, what="all services are scraped")
    await eventually(lambda: _silent(lab), timeout=30, what="nothing fires in health")
    for alert, cause in FAULTS.items():
        await lab.rests(alert)  # two rules may share a fault, and the first one's has just ended
        await cause(lab, alert)
        print(f"{alert} fired")


async def _scraped(lab: Lab) -> bool:
    found = await asyncio.to_thread(lab.prometheus.get, "query?query=count(nightshift_info)")
    return any(float(one["value"][1]) == len(lab.stack["services"]) for one in found["result"])


async def _silent(lab: Lab) -> bool:
    return not await lab.prometheus.firing()
