"""An error's branch decides what happens to its message; nothing else waits for it."""

import asyncio
from collections import defaultdict
from functools import partial

from tests.support.bus.rig import QUICK, BusPromises, Gate, Rig, Seen, fact, parts, request
from tests.support.waiting import eventually

from nightshift.bus.port import Outgoing
from nightshift.eventlog.errors import Fault, Refused, Transient, Unavailable
from nightshift.eventlog.port import RecordedEvent


class ErrorSuite(BusPromises):
    """Inherited by a test class per adapter."""

    async def test_refused_and_fault_are_dead_lettered_at_once(self, rig: Rig) -> None:
        errors = {"b1": Refused("never"), "b2": Fault("broken"), "b3": RuntimeError("bug")}
        seen = Seen(fail=lambda event: errors.get(event.subject))
        async with rig.consumers(self.requests(rig, seen)):
            await self.send(rig, rig.topics.requests, *(request(build) for build in ("b1", "b2", "b3", "b4")))
            await eventually(lambda: seen.subjects == ["b4"])
            dead = await eventually(lambda: self._dead_letters(rig, 3))
        assert {each.key: (each.branch, each.reason, each.attempts) for each in dead} == {
            b"b1": ("refused", "refused", 1),
            b"b2": ("fault", "fault", 1),
            b"b3": ("fault", "fault", 1),
        }

    async def test_transient_is_retried_in_order_then_dead_lettered(self, rig: Rig) -> None:
        tries: dict[str, int] = defaultdict(int)

        def fail(event: RecordedEvent) -> Exception | None:
            name = f"{event.subject}/{event.version}"
            tries[name] += 1
            return Transient("busy") if tries[name] < {"b1/1": 2, "b1/2": 99}.get(name, 0) else None

        seen = Seen(fail=fail)
        async with rig.consumers(self.facts(rig, seen)):
            await self.send(rig, rig.topics.build, fact("b1", 1), fact("b1", 2), fact("b1", 3))
            await eventually(lambda: seen.versions() == {"b1": [1, 3]})
            dead = await eventually(lambda: self._dead_letters(rig, 1))
        assert tries == {"b1/1": 2, "b1/2": QUICK.retry.attempts, "b1/3": 1}
        assert (dead[0].branch, dead[0].attempts) == ("transient", QUICK.retry.attempts)

    async def test_nothing_is_dead_lettered_while_a_dependency_is_down(self, rig: Rig) -> None:
        away = True
        seen = Seen(fail=lambda event: Unavailable("no database") if away else None)

        async def answer() -> bool:
            return not away

        async with rig.consumers(self.requests(rig, seen), dependencies=answer):
            await self.send(rig, rig.topics.requests, *(request(f"b{n}") for n in range(10)))
            loop = asyncio.get_running_loop()
            # Longer than the patience with a message that is alone in being refused.
            until = loop.time() + 2 * QUICK.retry.dependency_doubt_s
            await eventually(lambda: seen.calls > 4 * QUICK.retry.attempts and loop.time() > until)
            assert seen.events == []
            away = False
            await eventually(lambda: len(seen.events) == 10)
        assert await rig.dead_letters().list() == []

    async def test_unavailable_alone_is_dead_lettered_while_others_work(self, rig: Rig) -> None:
        seen = Seen(fail=lambda event: Unavailable("always") if event.subject == "b1" else None)

        async def answer() -> bool:
            return True

        async with rig.consumers(self.requests(rig, seen), dependencies=answer):
            await self.send(rig, rig.topics.requests, request("b1"), request("b2"))
            await eventually(lambda: seen.subjects == ["b2"])
            await eventually(lambda: self._dead_letters(rig, 1))

    async def test_waiting_partition_does_not_block_the_others(self, rig: Rig) -> None:
        blocked = True
        seen = Seen(fail=lambda event: Unavailable("x") if blocked and event.subject == "stuck" else None)
        async with rig.consumers(self.facts(rig, seen)):
            stuck, free = self._apart(rig)
            await rig.producer.send([Outgoing(rig.topics.build, *parts(fact("stuck", 1)), partition=stuck)])
            await eventually(lambda: seen.calls > 3)
            for version in range(1, 4):
                await rig.producer.send(
                    [Outgoing(rig.topics.build, *parts(fact("free", version)), partition=free)]
                )
                await eventually(lambda version=version: seen.versions().get("free", [])[-1:] == [version])
            assert "stuck" not in seen.versions()
            blocked = False
            await eventually(lambda: seen.versions().get("stuck") == [1])
            await rig.producer.send([Outgoing(rig.topics.build, *parts(fact("stuck", 2)), partition=stuck)])
            await eventually(lambda: seen.versions().get("stuck") == [1, 2])

    async def test_full_gate_takes_no_more_and_keeps_its_membership(self, rig: Rig) -> None:
        gate, seen = Gate(), Seen()
        gate.close()
        async with rig.consumers(self.requests(rig, seen, gate=gate), max_poll_interval_s=1.0) as consumers:
            await self.send(rig, rig.topics.requests, *(request(f"b{n}") for n in range(5)))
            await eventually(lambda: gate.waiters)
            # Longer than the poll interval and than a heartbeat or two: who stops polling is out by now.
            loop = asyncio.get_running_loop()
            until = loop.time() + 2.5
            while loop.time() < until:
                assert consumers.assigned
                await asyncio.sleep(0.05)
            assert seen.calls == 0
            assert await rig.committed(f"{rig.topics.prefix}.r", rig.topics.requests) == 0
            gate.open()
            await eventually(lambda: len(seen.events) == 5)
        assert len(seen.events) == 5

    async def _is_over(self, rig: Rig, dying: asyncio.Event) -> bool:
        """Whether the handler has met its death, or the dead letter is there.

        A task of its own that reads dead letters would be cancelled in the middle of a connection, and leave it open.
        """
        return dying.is_set() or await self._dead_letters(rig, 1)

    async def test_message_that_ends_the_process_is_dead_lettered(self, rig: Rig) -> None:
        """Its neighbours are handled, none is taken for it, and it is named after a few restarts."""
        dying, never = asyncio.Event(), asyncio.Event()

        async def die(event: RecordedEvent) -> None:
            handled.append(event.subject)
            if event.subject == "killer":
                dying.set()
                await never.wait()

        handled: list[str] = []
        for partition in (0, 1):
            for build in ("before", "killer" if partition else "other", "after"):
                message = Outgoing(rig.topics.requests, *parts(request(build)), partition=partition)
                await rig.producer.send([message])
        starts = 0
        while not await rig.dead_letters().list():
            starts += 1
            assert starts <= 8, "it ends the process again and again"
            dying.clear()
            running = rig.consumers(self.requests(rig, die))
            consumers = await running.__aenter__()
            await eventually(partial(self._is_over, rig, dying), timeout=60)
            if dying.is_set():
                await rig.crash(consumers)
            else:
                await eventually(lambda: handled.count("after") >= 2)
                await running.__aexit__(None, None, None)
        (one,) = [each.dead_letter for each in await rig.dead_letters().list()]
        assert (one.key, one.branch, one.reason) == (b"killer", "fault", "process_ended")
        assert {"before", "other", "after"} <= set(handled)
