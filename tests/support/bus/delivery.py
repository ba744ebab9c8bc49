"""Messages are delivered in order per build, at least once, to each group and to one member of it."""

import asyncio
from typing import Any

import structlog
from tests.support.bus.rig import BusPromises, Rig, Seen, fact, request
from tests.support.waiting import eventually

from nightshift.bus.port import Subscription
from nightshift.contracts.envelope import Message
from nightshift.contracts.events.build import BuildPhaseChanged, CheckpointSaved, ToolCallRequested
from nightshift.eventlog.errors import Refused
from nightshift.eventlog.port import RecordedEvent


class DeliverySuite(BusPromises):
    """Inherited by a test class per adapter."""

    async def test_order_holds_per_build_and_offsets_are_committed(self, rig: Rig) -> None:
        seen = Seen()
        sent = [fact(f"b{build}", version) for version in range(1, 21) for build in range(4)]
        async with rig.consumers(self.facts(rig, seen)):
            await self.send(rig, rig.topics.build, *sent)
            await eventually(lambda: len(seen.events) == 80)
        assert seen.versions() == {f"b{build}": list(range(1, 21)) for build in range(4)}
        assert await rig.committed(f"{rig.topics.prefix}.g", rig.topics.build) == 80

        again = Seen()
        async with rig.consumers(self.facts(rig, again)):
            await self.send(rig, rig.topics.build, fact("b0", 21))
            await eventually(lambda: again.events)
        assert again.versions() == {"b0": [21]}

    async def test_unsettled_message_is_delivered_again_after_a_crash(self, rig: Rig) -> None:
        begun, never = asyncio.Event(), asyncio.Event()

        async def hang(_event: RecordedEvent) -> None:
            begun.set()
            await never.wait()

        running = rig.consumers(self.requests(rig, hang))
        consumers = await running.__aenter__()
        await self.send(rig, rig.topics.requests, request("b1"))
        await asyncio.wait_for(begun.wait(), 10)
        await rig.crash(consumers)

        seen = Seen()
        async with rig.consumers(self.requests(rig, seen)):
            await eventually(lambda: seen.subjects == ["b1"], timeout=20)

    async def test_each_group_gets_every_message(self, rig: Rig) -> None:
        one, two = Seen(), Seen()
        async with rig.consumers(self.facts(rig, one, "g1"), self.facts(rig, two, "g2")):
            await self.send(rig, rig.topics.build, *(fact("b1", version) for version in range(1, 6)))
            await eventually(lambda: len(one.events) == len(two.events) == 5)
        assert one.versions() == two.versions() == {"b1": [1, 2, 3, 4, 5]}

    async def test_members_share_partitions_and_take_them_over(self, rig: Rig) -> None:
        seen, lost = Seen(), Seen()
        async with rig.consumers(self.facts(rig, seen)) as first:
            async with rig.consumers(self.facts(rig, lost)) as second:
                await eventually(lambda: first.assigned and second.assigned, timeout=20)
                await self.send(rig, rig.topics.build, *(fact(f"b{n}", 1) for n in range(40)))
                await eventually(lambda: len(set(seen.subjects) | set(lost.subjects)) == 40, timeout=20)
                assert seen.events, "a member without messages: nothing was shared"
                assert lost.events, "a member without messages: nothing was shared"
            await eventually(lambda: first.assigned, timeout=20)
            await self.send(rig, rig.topics.build, *(fact(f"b{n}", 2) for n in range(40)))
            await eventually(lambda: sum(2 in of for of in seen.versions().values()) == 40, timeout=20)

    async def test_type_without_a_handler_is_skipped_undecoded(self, rig: Rig) -> None:
        seen = Seen()
        uncared = fact("b1", 1, BuildPhaseChanged(from_phase="queued", to_phase="starting"))
        async with rig.consumers(self.facts(rig, seen)):
            await self.send(
                rig, rig.topics.build, Message(uncared.key, uncared.headers, b"not JSON"), fact("b1", 2)
            )
            await eventually(lambda: seen.versions() == {"b1": [2]})
        assert await rig.dead_letters().list() == []

    async def test_repeated_or_older_version_is_skipped(self, rig: Rig) -> None:
        seen = Seen()
        async with rig.consumers(self.facts(rig, seen)):
            await self.send(
                rig, rig.topics.build, *(fact("b1", version) for version in (1, 2, 3, 2, 1, 3, 4))
            )
            await self.send(rig, rig.topics.build, fact("b2", 1), fact("b1", 4), fact("b1", 5))
            await eventually(lambda: seen.versions() == {"b1": [1, 2, 3, 4, 5], "b2": [1]})

    async def test_repeat_of_a_failed_message_reaches_the_handler(self, rig: Rig) -> None:
        """A re-send of a fact whose handler failed for good must reach the handler."""
        seen = Seen(fail=lambda event: Refused("no") if seen.calls == 1 else None)
        async with rig.consumers(self.facts(rig, seen)):
            await self.send(rig, rig.topics.build, fact("b1", 1), fact("b1", 1))
            await eventually(lambda: seen.versions() == {"b1": [1]})
        assert seen.calls == 2

    async def test_handler_logs_carry_the_ids_of_its_event(self, rig: Rig) -> None:
        bound: list[tuple[RecordedEvent, dict[str, Any]]] = []

        async def note(event: RecordedEvent) -> None:
            bound.append((event, structlog.contextvars.get_contextvars()))

        call = ToolCallRequested(call_id="b1/1/0", turn=1, index=0, tool="bash", tool_use_id="t", input={})
        handlers = {ToolCallRequested: note, CheckpointSaved: note}
        async with rig.consumers(Subscription(rig.topics.build, f"{rig.topics.prefix}.g", handlers)):
            await self.send(rig, rig.topics.build, fact("b1", 1, call), fact("b1", 2))
            await eventually(lambda: len(bound) == 2)
        for event, context in bound:
            assert (context["build_id"], context["event_id"]) == ("b1", str(event.event_id))
        assert [context.get("call_id") for _, context in bound] == ["b1/1/0", None]
        assert structlog.contextvars.get_contextvars() == {}

    async def test_deleted_offsets_skip_nothing(self, rig: Rig) -> None:
        seen = Seen()
        async with rig.consumers(self.requests(rig, seen)):
            await self.send(rig, rig.topics.requests, request("b1"))
            await eventually(lambda: seen.subjects == ["b1"])
        await self.send(rig, rig.topics.requests, request("b2"))
        await rig.forget_offsets(f"{rig.topics.prefix}.r")
        again = Seen()
        async with rig.consumers(self.requests(rig, again)):
            await eventually(lambda: sorted(again.subjects) == ["b1", "b2"])

    async def test_stop_finishes_and_commits_the_message_in_hand(self, rig: Rig) -> None:
        begun, go, done = asyncio.Event(), asyncio.Event(), []

        async def slow(event: RecordedEvent) -> None:
            begun.set()
            await go.wait()
            done.append(event.subject)

        running = rig.consumers(self.requests(rig, slow))
        await running.__aenter__()
        await self.send(rig, rig.topics.requests, request("b1"))
        await asyncio.wait_for(begun.wait(), 10)
        stopping = asyncio.create_task(running.__aexit__(None, None, None))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not stopping.done()
        go.set()
        await stopping
        assert done == ["b1"]
        assert await rig.committed(f"{rig.topics.prefix}.r", rig.topics.requests) == 1
