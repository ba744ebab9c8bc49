"""After builds with random faults nothing of their sandboxes is left, here or in the provider's list."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.gateway_service import Gateways, a_seed, driver_of, environment, traces_of
from tests.support.gateway_world import World
from tests.support.stack import Database
from tests.support.waiting import eventually

from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import KafkaAddress, S3Address
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.postgres import PostgresEventLog, log_database
from nightshift.sandboxes.local.cgroups import Cgroups
from nightshift.sandboxes.local.driver import LocalDriver
from nightshift.sandboxes.port import SandboxDriver

pytestmark = [pytest.mark.fault, pytest.mark.kafka, pytest.mark.long]

BUILDS = int(os.environ.get("NIGHTSHIFT_LEFTOVER_BUILDS", "6"))
_AT_ONCE = 4
_PATIENCE_S = 240
_POINTS = (
    *(
        "after_create",
        "after_open",
        "before_run",
        "after_start",
        "after_run",
        "before_append",
        "after_append",
    ),
    "after_kill",
)
_COMMANDS = (
    "echo x > x",
    "(setsid sleep 1000 &); (sleep 1000 &); true",
    "mkdir -p a/b; chmod 000 a; (setsid bash -c 'while :; do sleep 1; done' &); true",
    "python3 -m http.server 8000 >/dev/null 2>&1 & sleep 0.3",
    "head -c 20M /dev/zero > f; cat f > /dev/shm/f",
    'python3 -c \'import os\nfor i in range(300): os.mkdir("d"); os.chdir("d")\'',
)


class Leftovers:
    """Runs builds beside faults, and remembers the id of every sandbox that was seen."""

    def __init__(
        self, driver: SandboxDriver, log: PostgresEventLog, home: Path, chance: random.Random
    ) -> None:
        self.driver, self._log, self._home, self._chance = driver, log, home, chance
        self.seen: set[str] = set()
        self._steps = 0  # answers and ends, of all builds

    async def build(self) -> None:
        """A build with commands, sometimes a sleep or a preview, that is cancelled at some moment."""
        world, chance = World(self.driver, self._log), self._chance
        await world.accept()
        for _ in range(chance.randint(1, 3)):
            calls = [("bash", {"command": command}) for command in chance.sample(_COMMANDS, 2)]
            calls += [("open_port", {"port": 8000})] if chance.random() < 0.2 else []
            ids = await world.ask(*calls, timeout_s=10)
            if chance.random() < 0.7:
                await self._answered(world, ids)
            if chance.random() < 0.3:
                await self._kill_the_sandbox(world)
            if chance.random() < 0.2:
                await world.sleep()
                await world.save_fails("pre_sleep")  # then it is paused
                await world.wake()
        await world.cancelled()
        await world.save_fails("completion")
        await eventually(
            lambda: self._settled(world), timeout=_PATIENCE_S, what=f"the end of {world.build_id}"
        )
        self._steps += 1

    async def _answered(self, world: World, ids: list[str]) -> None:
        async def done() -> bool:
            return set(ids) <= (await world.results()).keys()

        await eventually(done, timeout=_PATIENCE_S, what=f"results of {world.build_id}")
        self._steps += 1

    async def _kill_the_sandbox(self, world: World) -> None:
        """As the machine or the provider may: without a word to the gateway."""
        state = await world.states().read(world.build_id)
        if state.sandbox is not None and isinstance(self.driver, LocalDriver):
            first = self.driver._directory(state.sandbox.sandbox_id).first()
            if first is not None:
                first.kill()
        elif state.sandbox is not None:
            await self.driver.kill(state.sandbox.sandbox_id)

    async def _settled(self, world: World) -> bool:
        state = await world.states().read(world.build_id)
        return state.sandbox is None and not state.pending

    async def watch(self, gateways: Gateways, points: Iterator[str]) -> None:
        """Kill a gateway after some steps, and note the sandboxes that there are, until cancelled."""
        steps = 0
        while True:
            self.seen.update(path.name for path in (self._home / "sandboxes").glob("local-*"))
            gateways.replace_the_dead(points)
            if self._steps > steps:  # never faster than the builds go on, however slow the machine is
                steps = self._steps + self._chance.randint(0, 4)
                gateways.kill_one()
            await asyncio.sleep(0.1)  # the pace of the faults, not a wait for anything


@pytest.fixture(params=["local", "e2b"])
async def leftovers(
    request: pytest.FixtureRequest,
    database: Database,
    kafka: KafkaAddress,
    s3: S3Address,
    topics: Topics,
    tmp_path: Path,
) -> AsyncIterator[tuple[Leftovers, Gateways, random.Random]]:
    pool = log_database(PgConfig(dsn=database.dsn()))
    log = PostgresEventLog(pool, actor="test")
    home, chance = tmp_path / "home", a_seed()
    async with driver_of(request.param, home) as (driver, settings):
        gateways = Gateways(
            environment(database, kafka, s3, topics, home, **settings), tmp_path / "gateway.log"
        )
        try:
            yield Leftovers(driver, log, home, chance), gateways, chance
        finally:
            gateways.stop()
            await log.close()
            await pool.close()


@pytest.mark.timeout(300 if BUILDS < 50 else 3600)
async def test_nothing_is_left_of_sandboxes_after_faults(
    leftovers: tuple[Leftovers, Gateways, random.Random], tmp_path: Path
) -> None:
    rig, gateways, chance = leftovers
    points = (f"{chance.choice(_POINTS)}:{chance.randint(1, 4)}" for _ in range(BUILDS))
    gateways.start()
    gateways.start(next(points))
    watching = asyncio.create_task(rig.watch(gateways, points))
    room = asyncio.Semaphore(_AT_ONCE)

    async def one() -> None:
        async with room:
            await rig.build()

    try:
        await asyncio.gather(*(one() for _ in range(BUILDS)))
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    gateways.stop()
    age_all(tmp_path / "home" / "sandboxes")
    await (
        World(rig.driver, rig._log).sweeper().sweep()
    )  # what a gateway does when it starts, two minutes later
    assert await rig.driver.list() == []

    def released() -> bool:
        assert traces_of(tmp_path / "home") == []
        return True

    await eventually(released, what="the end of everything that belonged to sandboxes")
    assert groups(rig.seen) == []
    print(f"{rig.driver.name}: {BUILDS} builds, {len(rig.seen)} local sandboxes, {gateways.kills} kills")


def age_all(sandboxes: Path) -> None:
    """Let what no gateway finished count as abandoned."""
    for path in [*sandboxes.glob("*"), *sandboxes.glob("*/starting.json")]:
        with suppress(FileNotFoundError):
            os.utime(path, (0, time.time() - 1000))


def groups(names: set[str]) -> list[str]:
    """The cgroups of these sandboxes that exist."""
    return [
        str(parent / name)
        for parent in Cgroups.find().parents.values()
        for name in names
        if (parent / name).exists()
    ]
