"""PostgreSQL is down for a while under a whole stack: services wait, log it, and continue."""

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from tests.support.main_job import RICH, SERVICES, MainJob, assert_ready, ended, has
from tests.support.processes import RunningUp
from tests.support.stack import postgres_part
from tests.support.waiting import eventually

from nightshift.contracts.events.build import ToolCallRequested
from nightshift.devstack.parts import DATABASE, EmbeddedPostgres

pytestmark = [pytest.mark.timeout(180), pytest.mark.fault, pytest.mark.xdist_group("main-job-away")]

_SCENARIO = Path(__file__).with_name("scenario.yaml")


@pytest.fixture(scope="module")
def server(stack_folder: Path) -> Iterator[EmbeddedPostgres]:
    """A durable server that only the test starts again, because it is not part of the stack."""
    part = postgres_part(stack_folder / "away" / "postgres")
    asyncio.run(_with_database(part))
    try:
        yield part
    finally:
        asyncio.run(part.stop())


async def _with_database(part: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect((await part.start()).admin_dsn)
    await connection.execute(f'CREATE DATABASE "{DATABASE}"')
    await connection.close()


@pytest.fixture(scope="module")
def stack(stack_folder: Path, server: EmbeddedPostgres) -> Iterator[MainJob]:
    dsn = f"postgresql://postgres@127.0.0.1:{server.port}/{DATABASE}"
    home = stack_folder / "away" / "home"
    one = MainJob(lambda: RunningUp(home, "--scenario", str(_SCENARIO), "--postgres", dsn))
    try:
        one.ready()
        asyncio.run(one.open_account(RICH))
        yield one
    finally:
        one.up.end()


@pytest.mark.parametrize(
    "away", [pytest.param(5.0, id="five"), pytest.param(30.0, marks=pytest.mark.long, id="thirty")]
)
async def test_services_wait_say_so_and_go_on_and_nothing_is_lost(
    stack: MainJob, server: EmbeddedPostgres, away: float
) -> None:
    processes = {name: stack.process(name) for name in SERVICES}
    before = _said(stack)
    builds = [await stack.ask("plain steps, database away") for _ in range(3)]
    for build_id in builds:
        await stack.until(build_id, has(ToolCallRequested, times=2), 60, what="at work")

    server.child.signal(signal.SIGKILL)  # with an open transaction or two
    await server.stop()
    await eventually(
        lambda: "postgres.unavailable" in _since(stack, before)["relay"], 20, what="the relay says so"
    )
    builds.append(await stack.ask("plain steps, asked while it was away"))
    await asyncio.sleep(away)  # the outage itself
    await server.start()

    for build_id in builds:
        events = await stack.until(build_id, ended, 60, what="ended")
        assert_ready(stack, build_id, events, steps=8)
    said = _since(stack, before)
    for name, lines in said.items():
        assert lines[::2] == ["postgres.unavailable"] * (len(lines) // 2), f"{name}: {lines}"
        assert lines[1::2] == ["postgres.recovered"] * (len(lines) // 2), f"{name}: {lines}"
    assert {name for name, lines in said.items() if lines} >= {"relay", "orchestrator", "sandbox-gateway"}
    assert {name: stack.process(name) for name in SERVICES} == processes, "a service gave up"


def _said(stack: MainJob) -> dict[str, list[str]]:
    """Returns, by service, the log events about the database in order."""
    logs = {name: (stack.home / "logs" / f"{name}.log").read_text().splitlines() for name in SERVICES}
    return {
        name: [json.loads(line)["event"] for line in lines if '"postgres.' in line]
        for name, lines in logs.items()
    }


def _since(stack: MainJob, before: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: lines[len(before[name]) :] for name, lines in _said(stack).items()}
