"""The local sandbox: opening one, a no-op command, many at once, the way to an appended result, the gateway's memory.

python bench/sandbox.py          the local driver, and the gateway on the embedded PostgreSQL
python bench/sandbox.py --e2b    the E2B driver beside bare calls of the SDK, on the tests' stand-in

Needs root for the full isolation.
"""

import argparse
import asyncio
import os
import shlex
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.e2b_server import E2BServer
from tests.support.gateway_world import World
from tests.support.stack import create_database

from nightshift.devstack.parts import EmbeddedPostgres
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.migrate import migrate
from nightshift.eventlog.postgres import PostgresEventLog, log_database
from nightshift.sandboxes.adapters.e2b import E2BDriver, E2BOptions
from nightshift.sandboxes.local.driver import LocalDriver, close_all
from nightshift.sandboxes.local.settings import LocalSettings
from nightshift.sandboxes.port import CallSpec

_OPENS, _CALLS, _PARALLEL, _RESULTS, _OPEN, _SDK = 10, 200, 100, 100, 30, 30
_TICK_MS = 10  # of the times in /proc
_NO_OP = ["bash", "-c", "true"]

Row = tuple[str, str, str]


def _cpu_ms(driver: LocalDriver, sandbox_id: str) -> int:
    """The CPU of the agent and of everything that it has reaped."""
    first = driver._directory(sandbox_id).first()
    if first is None:
        raise SystemExit("the sandbox has ended")
    fields = Path(f"/proc/{first.pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) * _TICK_MS


async def _times(number: int, work: Callable[[int], Awaitable[object]]) -> list[float]:
    """The milliseconds of each of these, one after the other."""
    times = []
    for at in range(number):
        started = time.perf_counter()
        await work(at)
        times.append((time.perf_counter() - started) * 1000)
    return times


async def _local(driver: LocalDriver) -> list[Row]:
    await driver.probe()
    opens = await _times(_OPENS, lambda number: driver.create(f"b{number}", generation=0))
    sandbox = await driver.create("b0", generation=0)
    before = _cpu_ms(driver, sandbox.id)
    times = await _times(
        _CALLS, lambda number: sandbox.run_call(CallSpec(f"b/1/{number}", _NO_OP), wait_s=10)
    )
    cpu = (_cpu_ms(driver, sandbox.id) - before) / _CALLS
    started = time.perf_counter()
    calls = (CallSpec(f"b/2/{number}", _NO_OP) for number in range(_PARALLEL))
    await asyncio.gather(*(sandbox.run_call(call, wait_s=30) for call in calls))
    rate = _PARALLEL / (time.perf_counter() - started)
    return [
        ("open, median", f"{statistics.median(opens):.0f} ms", "60 ms"),
        ("no-op command with its output, median", f"{statistics.median(times):.1f} ms", "–"),
        ("CPU in the sandbox for it, agent included", f"{cpu:.1f} ms", "6 ms"),
        (f"{_PARALLEL} no-op commands at once", f"{rate:.0f}/s", "150/s"),
    ]


async def _gateway(driver: LocalDriver, folder: Path) -> list[Row]:
    """The gateway on a log in PostgreSQL: from a message that is handled to its result in the log; and its memory."""
    part = EmbeddedPostgres(folder / "postgres")
    address = await part.start()
    try:
        database = await create_database(address, "bench")
        await migrate(database.dsn())
        pool = log_database(PgConfig(dsn=database.dsn()))
        log = PostgresEventLog(pool, actor="bench")
        try:
            return await _on(log, driver)
        finally:
            await log.close()
            await pool.close()
    finally:
        await part.stop()


async def _on(log: PostgresEventLog, driver: LocalDriver) -> list[Row]:
    world = World(driver, log)
    await world.accept()
    gateway = world.gateway()
    await world.ask(("bash", {"command": "true"}))
    await gateway.work(world.build_id)
    times = []
    for _ in range(_RESULTS):
        await world.ask(("bash", {"command": "true"}))
        started = time.perf_counter()
        await gateway.work(world.build_id)
        times.append((time.perf_counter() - started) * 1000)
    tracemalloc.start()
    for _ in range(_OPEN):
        other = World(driver, log)
        await other.accept()
        await other.ask(("bash", {"command": "true"}))
        await gateway.work(other.build_id)
    grown = tracemalloc.get_traced_memory()[0] / _OPEN / 1024
    return [
        ("message handled → result in the log, median", f"{statistics.median(times):.1f} ms", "15 ms"),
        ("memory of the gateway for an open sandbox", f"{grown:.0f} KB", "100 KB"),
    ]


async def _e2b(folder: Path) -> list[Row]:
    """The driver beside the bare SDK: the same process inside, started by `commands.run`."""
    os.environ["NO_PROXY"] = "127.0.0.1,localhost"
    async with E2BServer(folder / "e2b") as server:
        key = "e2b_" + "0" * 40
        driver = E2BDriver(E2BOptions(api_key=key, api_url=server.url, sandbox_url=server.url))
        sandbox = await driver.create("b", generation=0)
        box = sandbox._channel._box
        inside = shlex.join(
            ["python3", "-I", "-S", "-c", "import json, subprocess; subprocess.run(['bash', '-c', 'true'])"]
        )
        bare = await _times(_SDK, lambda _: box.commands.run("true"))
        python = await _times(_SDK, lambda _: box.commands.run(inside))
        ours = await _times(
            _SDK, lambda number: sandbox.run_call(CallSpec(f"b/1/{number}", _NO_OP), wait_s=10)
        )
        return [
            ("the SDK alone: `true`, median", f"{statistics.median(bare):.1f} ms", "–"),
            ("the SDK alone: `true` started by a Python, median", f"{statistics.median(python):.1f} ms", "–"),
            ("our driver: `true` once, with its record, median", f"{statistics.median(ours):.1f} ms", "–"),
            (
                "over the SDK and its Python",
                f"{statistics.median(ours) - statistics.median(python):.1f} ms",
                "5 ms",
            ),
        ]


async def _measure(directory: Path, *, e2b: bool) -> list[Row]:
    if e2b:
        return await _e2b(directory)
    driver = LocalDriver(LocalSettings(directory / "sandboxes"))
    return [*await _local(driver), *await _gateway(driver, directory)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--e2b", action="store_true", help="measure the E2B driver")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        try:
            run = (
                asyncio.run if options.e2b else uvloop.run
            )  # uvloop knows no abstract sockets, which the stand-in has
            rows = run(_measure(Path(directory), e2b=options.e2b))
        finally:
            close_all(Path(directory) / "sandboxes")
    print("| what | measured | limit |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
