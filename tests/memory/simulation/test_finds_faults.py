"""The simulation finds a planted fault, repeats a run exactly, and runs nothing of a crashed process."""

import asyncio

import pytest

from nightshift.eventlog.errors import Unavailable
from nightshift.simulation import SimulationFailed, Violation, World, simulate

SEEDS = 300
SEATS = 3


class Booking:
    """Sells seats. Unless atomic, it reads the number of free seats, waits, and writes the number back."""

    def __init__(self, world: World, *, atomic: bool) -> None:
        self.world = world
        self.atomic = atomic
        self.free = SEATS
        self.granted = 0

    async def reserve(self) -> bool:
        if self.atomic:
            return await self.world.remote("reserve", self._take)
        free = await self.world.remote("read", self._read)
        if free == 0:
            return False
        await self.world.remote("write", lambda: self._write(free - 1))
        self.granted += 1
        return True

    async def _take(self) -> bool:
        if self.free == 0:
            return False
        self.free -= 1
        self.granted += 1
        return True

    async def _read(self) -> int:
        return self.free

    async def _write(self, free: int) -> None:
        self.free = free


def booking_scenario(*, atomic: bool):
    async def scenario(world: World) -> None:
        booking = Booking(world, atomic=atomic)

        async def customer() -> None:
            await asyncio.sleep(world.draws.uniform(0, 60))
            try:
                await booking.reserve()
            except Unavailable:
                world.note("gives up")

        customers = [world.start(f"customer-{number}", customer) for number in range(6)]
        await world.finish(customers, within=600)
        if booking.granted > SEATS:
            raise Violation(f"{booking.granted} seats granted, {SEATS} exist")

    return scenario


def failures(scenario) -> list[int]:
    found = []
    for seed in range(SEEDS):
        try:
            simulate(scenario, seed)
        except SimulationFailed as failed:
            if not isinstance(failed.__cause__, Violation):
                raise
            found.append(seed)
    return found


def trace_of(seed: int) -> tuple[str, ...]:
    with pytest.raises(SimulationFailed) as caught:
        simulate(booking_scenario(atomic=False), seed)
    return caught.value.trace


def test_a_read_await_write_fault_is_found_until_it_is_fixed():
    assert len(failures(booking_scenario(atomic=False))) >= 10
    assert failures(booking_scenario(atomic=True)) == []


def test_equal_seeds_give_equal_traces_and_others_differ():
    seed = failures(booking_scenario(atomic=False))[0]
    assert trace_of(seed) == trace_of(seed)

    digests = {simulate(booking_scenario(atomic=True), seed).digest for seed in range(20)}
    assert len(digests) == 20
    assert digests == {simulate(booking_scenario(atomic=True), seed).digest for seed in range(20)}


def test_a_crashed_process_runs_nothing_and_restarts():
    async def scenario(world: World) -> None:
        runs: list[str] = []
        cleanups: list[int] = []
        verdict: list[str] = []

        async def background(run: int) -> None:
            while True:
                await asyncio.sleep(0.01)
                assert run == len(runs), "a task of a dead process runs"

        async def main() -> None:
            runs.append("running")
            run = len(runs)
            try:
                async with asyncio.TaskGroup() as group:
                    task = group.create_task(background(run))
                    for _ in range(10):
                        await world.insist("call", answer)
                    task.cancel()
            finally:
                if run < len(runs) and not verdict:
                    cleanups.append(run)

        async def answer() -> None:
            return None

        process = world.start("worker", main)
        await world.finish([process], within=3600)
        verdict.append("given")
        assert len(runs) == process.crashes + 1
        assert cleanups == [], "the cleanup of a dead process runs"
        crashes.append(process.crashes)

    crashes: list[int] = []
    for seed in range(100):
        simulate(scenario, seed)
    assert sum(crashes) > 20


def test_a_server_finishes_a_call_whose_caller_crashed():
    async def scenario(world: World) -> None:
        begun: list[float] = []
        done: list[float] = []

        async def write() -> None:
            begun.append(world.loop.time())
            await asyncio.sleep(0.5)
            done.append(world.loop.time())

        async def main() -> None:
            await world.remote("write", write)

        process = world.start("writer", main)
        try:
            await world.finish([process], within=3600)
        except Unavailable:
            lost.append(len(done))
        await asyncio.sleep(1)
        assert len(begun) == len(done)
        died_meanwhile.append("during" in "".join(world.trace))

    lost: list[int] = []
    died_meanwhile: list[bool] = []
    for seed in range(300):
        simulate(scenario, seed)
    assert {0, 1} <= set(lost), "an answer must be lost both before and after the deed"
    assert any(died_meanwhile)


def test_callbacks_ready_at_the_same_time_run_in_any_order():
    async def scenario(world: World) -> None:
        order: list[int] = []

        async def step(number: int) -> None:
            order.append(number)

        await asyncio.gather(*(step(number) for number in range(3)))
        orders.add(tuple(order))

    orders: set[tuple[int, ...]] = set()
    for seed in range(100):
        simulate(scenario, seed)
    assert len(orders) == 6


def test_a_deadlock_and_an_endless_wait_fail_the_run():
    async def deadlock(world: World) -> None:
        await asyncio.get_running_loop().create_future()

    async def endless(world: World) -> None:
        async def main() -> None:
            await asyncio.sleep(86_400)

        await world.finish([world.start("sleeper", main)], within=3600)

    with pytest.raises(SimulationFailed, match="no timer is left"):
        simulate(deadlock, 1)
    with pytest.raises(SimulationFailed, match="not done 3600 s after the beginning: sleeper"):
        simulate(endless, 1)


def test_a_thread_call_takes_virtual_time():
    async def scenario(world: World) -> None:
        before = world.loop.time()
        assert await asyncio.to_thread(sum, [1, 2, 3]) == 6
        assert world.loop.time() > before

    simulate(scenario, 1)
