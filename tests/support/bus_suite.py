"""The conformance suite of the bus: what every adapter must do, run on the real broker and on the one in memory."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol, get_args
from uuid import uuid4

import pytest
import structlog
from tests.support.waiting import eventually

from nightshift.bus.dead_letters import DeadLetters
from nightshift.bus.letters import Letter
from nightshift.bus.policy import ConsumerPolicy, RetryPolicy
from nightshift.bus.port import Consumers, GroundProbe, Outgoing, Producer, Subscription
from nightshift.contracts import ids
from nightshift.contracts.cloudevents import encode_fact, encode_request
from nightshift.contracts.envelope import Envelope, Message, fact_source
from nightshift.contracts.events import AnyEvent
from nightshift.contracts.events.build import BuildPhaseChanged, CheckpointSaved, ToolCallRequested
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.model import Event
from nightshift.contracts.registry import CATALOGUE, Registry, encode, wire_name
from nightshift.contracts.topics import Topics
from nightshift.contracts.upcasts import UPCASTS
from nightshift.eventlog.errors import Fault, Refused, Transient, Unavailable
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.port import RecordedEvent

#: Quick retries: what is tested is the order of things, not the patience.
QUICK = ConsumerPolicy(
    retry=RetryPolicy(attempts=3, base_s=0.01, cap_s=0.05, ground_cap_s=0.05, ground_doubt_s=0.5),
    take_grace_s=0.05,
    commit_every_s=0.01,
    drain_s=2.0,
)


class Rig(Protocol):
    """One broker, ready for one test."""

    topics: Topics
    objects: MemoryObjectStore
    producer: Producer

    def consumers(
        self,
        *subscriptions: Subscription,
        policy: ConsumerPolicy = QUICK,
        ground: GroundProbe | None = None,
        registry: Registry = CATALOGUE,
        carry_limit: int = 1_048_576,
        max_poll_interval_s: float = 60.0,
    ) -> AbstractAsyncContextManager[Consumers]: ...

    async def crash(self, consumers: Consumers) -> None:
        """End them as SIGKILL would: nothing drained, nothing committed any more."""
        ...

    async def committed(self, group: str, topic: str) -> int:
        """Sum of the committed offsets over the partitions."""
        ...

    async def forget_offsets(self, group: str) -> None: ...

    def dead_letters(self) -> DeadLetters: ...


def fact(build: str, version: int, event: Event | None = None) -> Message:
    """A fact as the relay sends it; its turn is its version."""
    event = event or CheckpointSaved(turn=version)
    cause = ids.request_cause("test", build)
    envelope = Envelope(
        id=str(ids.event_id(cause, event.type, version)),
        type=wire_name(event.type, event.version),
        source=fact_source("orchestrator/test"),
        subject=build,
        time=datetime.now(UTC),
        sequence=version,
        correlation_id=build,
        causation_id=cause,
    )
    return encode_fact(envelope, encode(event))


def request(build: str, **fields: Any) -> Message:
    """A build request as a producer outside sends it."""
    event = BuildRequested(
        build_id=build,
        project_id="p1",
        account_id="a1",
        idea_brief=fields.pop("idea_brief", "an app"),
        **fields,
    )
    return encode_request(event, id=str(uuid4()), source="/test")


@dataclass
class Seen:
    """A handler that remembers what it was given, and may be told to fail."""

    events: list[RecordedEvent] = field(default_factory=list)
    fail: Callable[[RecordedEvent], BaseException | None] = lambda _: None
    calls: int = 0

    async def __call__(self, event: RecordedEvent) -> None:
        self.calls += 1
        error = self.fail(event)
        if error is not None:
            raise error
        self.events.append(event)

    @property
    def subjects(self) -> list[str]:
        return [event.subject for event in self.events]

    def versions(self) -> dict[str, list[int]]:
        found = defaultdict(list)
        for event in self.events:
            found[event.subject].append(event.version)
        return dict(found)


class BusSuite:
    """Inherited by a test class per adapter; the adapter's conftest gives `rig`."""

    def facts(self, rig: Rig, handler: Any, group: str = "g", **more: Any) -> Subscription:
        return Subscription(
            rig.topics.build, f"{rig.topics.prefix}.{group}", {CheckpointSaved: handler}, **more
        )

    def requests(self, rig: Rig, handler: Any, group: str = "r", **more: Any) -> Subscription:
        return Subscription(
            rig.topics.requests, f"{rig.topics.prefix}.{group}", {BuildRequested: handler}, **more
        )

    async def send(self, rig: Rig, topic: str, *messages: Message) -> None:
        await rig.producer.send([Outgoing.of(topic, message) for message in messages])

    async def test_order_holds_per_build_and_what_was_handled_is_committed(self, rig: Rig) -> None:
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

    async def test_what_was_not_settled_before_a_crash_comes_again(self, rig: Rig) -> None:
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

    async def test_members_share_and_take_over_from_each_other(self, rig: Rig) -> None:
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

    async def test_a_type_nobody_handles_is_passed_over_undecoded(self, rig: Rig) -> None:
        seen = Seen()
        uncared = fact("b1", 1, BuildPhaseChanged(from_phase="queued", to_phase="starting"))
        async with rig.consumers(self.facts(rig, seen)):
            await self.send(
                rig, rig.topics.build, Message(uncared.key, uncared.headers, b"not JSON"), fact("b1", 2)
            )
            await eventually(lambda: seen.versions() == {"b1": [2]})
        assert await rig.dead_letters().list() == []

    async def test_a_resend_at_or_below_what_was_handled_is_dropped(self, rig: Rig) -> None:
        seen = Seen()
        async with rig.consumers(self.facts(rig, seen)):
            await self.send(
                rig, rig.topics.build, *(fact("b1", version) for version in (1, 2, 3, 2, 1, 3, 4))
            )
            await self.send(rig, rig.topics.build, fact("b2", 1), fact("b1", 4), fact("b1", 5))
            await eventually(lambda: seen.versions() == {"b1": [1, 2, 3, 4, 5], "b2": [1]})

    async def test_a_handler_logs_under_the_ids_of_its_event(self, rig: Rig) -> None:
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

    async def test_what_failed_is_not_taken_for_handled_by_its_sequence(self, rig: Rig) -> None:
        """A re-send of a fact whose handler failed for good must reach the handler."""
        seen = Seen(fail=lambda event: Refused("no") if seen.calls == 1 else None)
        async with rig.consumers(self.facts(rig, seen)):
            await self.send(rig, rig.topics.build, fact("b1", 1), fact("b1", 1))
            await eventually(lambda: seen.versions() == {"b1": [1]})
        assert seen.calls == 2

    async def test_refused_and_fault_are_parked_at_once_and_the_next_is_handled(self, rig: Rig) -> None:
        errors = {"b1": Refused("never"), "b2": Fault("broken"), "b3": RuntimeError("bug")}
        seen = Seen(fail=lambda event: errors.get(event.subject))
        async with rig.consumers(self.requests(rig, seen)):
            await self.send(rig, rig.topics.requests, *(request(build) for build in ("b1", "b2", "b3", "b4")))
            await eventually(lambda: seen.subjects == ["b4"])
            letters = await eventually(lambda: self._letters(rig, 3))
        assert {each.key: (each.branch, each.reason, each.attempts) for each in letters} == {
            b"b1": ("refused", "refused", 1),
            b"b2": ("fault", "fault", 1),
            b"b3": ("fault", "fault", 1),
        }

    async def test_transient_is_tried_again_in_order_then_parked(self, rig: Rig) -> None:
        tries: dict[str, int] = defaultdict(int)

        def fail(event: RecordedEvent) -> Exception | None:
            name = f"{event.subject}/{event.version}"
            tries[name] += 1
            return Transient("busy") if tries[name] < {"b1/1": 2, "b1/2": 99}.get(name, 0) else None

        seen = Seen(fail=fail)
        async with rig.consumers(self.facts(rig, seen)):
            await self.send(rig, rig.topics.build, fact("b1", 1), fact("b1", 2), fact("b1", 3))
            await eventually(lambda: seen.versions() == {"b1": [1, 3]})
            letters = await eventually(lambda: self._letters(rig, 1))
        assert tries == {"b1/1": 2, "b1/2": QUICK.retry.attempts, "b1/3": 1}
        assert (letters[0].branch, letters[0].attempts) == ("transient", QUICK.retry.attempts)

    async def test_while_the_ground_is_away_nothing_is_parked_and_all_is_handled_after(
        self, rig: Rig
    ) -> None:
        away = True
        seen = Seen(fail=lambda event: Unavailable("no database") if away else None)

        async def ground() -> bool:
            return not away

        async with rig.consumers(self.requests(rig, seen), ground=ground):
            await self.send(rig, rig.topics.requests, *(request(f"b{n}") for n in range(10)))
            loop = asyncio.get_running_loop()
            # Longer than the patience with a message that is alone in being refused.
            until = loop.time() + 2 * QUICK.retry.ground_doubt_s
            await eventually(lambda: seen.calls > 4 * QUICK.retry.attempts and loop.time() > until)
            assert seen.events == []
            away = False
            await eventually(lambda: len(seen.events) == 10)
        assert await rig.dead_letters().list() == []

    async def test_one_message_that_says_unavailable_while_the_ground_answers_is_parked(
        self, rig: Rig
    ) -> None:
        seen = Seen(fail=lambda event: Unavailable("always") if event.subject == "b1" else None)

        async def ground() -> bool:
            return True

        async with rig.consumers(self.requests(rig, seen), ground=ground):
            await self.send(rig, rig.topics.requests, request("b1"), request("b2"))
            await eventually(lambda: seen.subjects == ["b2"])
            await eventually(lambda: self._letters(rig, 1))

    async def test_a_partition_that_waits_does_not_hold_up_the_others(self, rig: Rig) -> None:
        blocked = True
        seen = Seen(fail=lambda event: Unavailable("x") if blocked and event.subject == "stuck" else None)
        async with rig.consumers(self.facts(rig, seen)):
            stuck, free = self._apart(rig)
            await rig.producer.send([Outgoing(rig.topics.build, *_parts(fact("stuck", 1)), partition=stuck)])
            await eventually(lambda: seen.calls > 3)
            for version in range(1, 4):
                await rig.producer.send(
                    [Outgoing(rig.topics.build, *_parts(fact("free", version)), partition=free)]
                )
                await eventually(lambda version=version: seen.versions().get("free", [])[-1:] == [version])
            assert "stuck" not in seen.versions()
            blocked = False
            await eventually(lambda: seen.versions().get("stuck") == [1])
            await rig.producer.send([Outgoing(rig.topics.build, *_parts(fact("stuck", 2)), partition=stuck)])
            await eventually(lambda: seen.versions().get("stuck") == [1, 2])

    async def test_offsets_that_were_deleted_skip_nothing(self, rig: Rig) -> None:
        seen = Seen()
        async with rig.consumers(self.requests(rig, seen)):
            await self.send(rig, rig.topics.requests, request("b1"))
            await eventually(lambda: seen.subjects == ["b1"])
        await self.send(rig, rig.topics.requests, request("b2"))
        await rig.forget_offsets(f"{rig.topics.prefix}.r")
        again = Seen()
        async with rig.consumers(self.requests(rig, again)):
            await eventually(lambda: sorted(again.subjects) == ["b1", "b2"])

    @pytest.mark.parametrize("message", ["binary", "structured"])
    async def test_a_request_is_read_in_both_modes(self, rig: Rig, message: str) -> None:
        seen, made = Seen(), request("b1")
        if message == "structured":
            made = _structured(made)
        async with rig.consumers(self.requests(rig, seen)):
            await self.send(rig, rig.topics.requests, made)
            await eventually(lambda: seen.subjects == ["b1"])
        assert seen.events[0].data.idea_brief == "an app"

    async def test_every_kind_of_poison_is_parked_with_its_reason_and_driven_after_the_fix(
        self, rig: Rig
    ) -> None:
        seen, poison = Seen(), _poison()
        async with rig.consumers(self.requests(rig, seen)):
            for name, (message, _reason) in poison.items():
                part = self._part(rig)
                await rig.producer.send([Outgoing(rig.topics.requests, *message, partition=part)])
                await rig.producer.send(
                    [Outgoing(rig.topics.requests, *_parts(request(f"after-{name}")), partition=part)]
                )
            await eventually(lambda: len(seen.events) == len(poison), timeout=20)
            letters = await eventually(lambda: self._letters(rig, len(poison)))
        assert [each.subject for each in seen.events] == [f"after-{name}" for name in poison]
        found = {each.source_offset // 2: each for each in letters}
        for index, (name, ((key, value, headers), reason)) in enumerate(poison.items()):
            letter = found[index]
            assert letter.reason == reason, (name, letter.error)
            assert (letter.key, letter.value, letter.headers) == (key, value, tuple(headers)), name

        # Driven without a fix, each comes back as a letter of its own; its bytes are still the same.
        for letter in letters:
            await rig.dead_letters().drive(letter, rig.producer, None)
        async with rig.consumers(self.requests(rig, seen)):
            again = await eventually(lambda: self._letters(rig, len(poison)), timeout=20)
        assert not {each.id for each in again} & {each.id for each in letters}
        assert _contents(again) == _contents(letters)

    @pytest.mark.parametrize("reason", ["unknown_type", "unknown_version", "unknown_field"])
    async def test_a_letter_is_handled_when_it_is_driven_after_the_fix(self, rig: Rig, reason: str) -> None:
        """The fix is a release that knows the type, the version, the field."""
        message, newer = _ahead()[reason]
        async with rig.consumers(self.requests(rig, Seen())):
            await self.send(rig, rig.topics.requests, message)
            (letter,) = await eventually(lambda: self._letters(rig, 1))
        assert letter.reason == ("invalid_data" if reason == "unknown_field" else reason)

        seen = Seen()
        fixed = Subscription(rig.topics.requests, f"{rig.topics.prefix}.r", {newer: seen})
        async with rig.consumers(fixed, registry=_release_with(newer)):
            await rig.dead_letters().drive(letter, rig.producer, None)
            await eventually(lambda: seen.subjects == ["b1"])
        assert type(seen.events[0].data) is newer
        assert await rig.dead_letters().list() == []
        assert [each.driven for each in await rig.dead_letters().list(lambda _: True)] == [True]

    async def test_a_fact_that_failed_is_driven_though_later_ones_were_handled(self, rig: Rig) -> None:
        broken = True
        seen = Seen(fail=lambda event: Refused("bug") if broken and event.version == 1 else None)
        async with rig.consumers(self.facts(rig, seen)):
            await self.send(rig, rig.topics.build, fact("b1", 1), fact("b1", 2))
            await eventually(lambda: seen.versions() == {"b1": [2]})
            (letter,) = await eventually(lambda: self._letters(rig, 1))
            broken = False
            await rig.dead_letters().drive(letter, rig.producer, None)
            await eventually(lambda: seen.versions() == {"b1": [2, 1]})

    async def test_a_body_too_large_to_carry_is_parked_by_digest_and_driven_whole(self, rig: Rig) -> None:
        broken = True
        seen = Seen(fail=lambda event: Refused("no") if broken else None)
        large = request("b1", idea_brief="x" * 40_000)
        async with rig.consumers(self.requests(rig, seen), carry_limit=32_768):
            await self.send(rig, rig.topics.requests, large)
            (letter,) = await eventually(lambda: self._letters(rig, 1))
            assert letter.value is None
            assert letter.value_bytes == len(large.value)
            assert await rig.objects.get(f"dead-letters/{str(letter.value_ref)[7:]}") == large.value
            broken = False
            await rig.dead_letters().drive(letter, rig.producer, rig.objects)
            await eventually(lambda: seen.subjects == ["b1"])

    async def test_a_full_gate_takes_no_more_and_keeps_its_place(self, rig: Rig) -> None:
        gate, seen = _Gate(), Seen()
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

    async def test_stopping_finishes_and_commits_what_is_in_hand(self, rig: Rig) -> None:
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

    async def test_message_that_ends_the_process_each_time_is_dead_lettered(self, rig: Rig) -> None:
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
                message = Outgoing(rig.topics.requests, *_parts(request(build)), partition=partition)
                await rig.producer.send([message])
        starts = 0
        while not await rig.dead_letters().list():
            starts += 1
            assert starts <= 8, "it ends the process again and again"
            dying.clear()
            running = rig.consumers(self.requests(rig, die))
            consumers = await running.__aenter__()
            ended = asyncio.create_task(dying.wait())
            parked = asyncio.create_task(eventually(lambda: self._letters(rig, 1), timeout=60))
            await asyncio.wait([ended, parked], return_when=asyncio.FIRST_COMPLETED, timeout=60)
            if ended.done():
                parked.cancel()
                await rig.crash(consumers)
            else:
                ended.cancel()
                await parked
                await eventually(lambda: handled.count("after") >= 2)
                await running.__aexit__(None, None, None)
        (letter,) = [each.letter for each in await rig.dead_letters().list()]
        assert (letter.key, letter.branch, letter.reason) == (b"killer", "fault", "process_ended")
        assert {"before", "other", "after"} <= set(handled)

    async def _letters(self, rig: Rig, count: int) -> list[Letter] | None:
        found = [each.letter for each in await rig.dead_letters().list()]
        return found if len(found) == count else None

    def _apart(self, rig: Rig) -> tuple[int, int]:
        return 0, 1

    def _part(self, rig: Rig) -> int:
        return 0


class _Gate:
    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self.waiters = 0

    @property
    def full(self) -> bool:
        return not self._open.is_set()

    async def room(self) -> None:
        self.waiters += 1
        await self._open.wait()

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()


Parts = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]


def _parts(message: Message) -> Parts:
    return message.key, message.value, message.headers


def _structured(message: Message) -> Message:
    document = {name[3:]: value.decode() for name, value in message.headers if name.startswith("ce_")}
    document["data"] = json.loads(message.value)
    return Message(
        message.key,
        (("content-type", b"Application/CloudEvents+json; charset=utf-8"),),
        json.dumps(document).encode(),
    )


def _poison() -> dict[str, tuple[Parts, str]]:
    """What comes in through the door, and the reason it is parked with."""
    good = request("b1")
    data = json.loads(good.value)

    def body(value: bytes | None) -> Parts:
        return good.key, value, good.headers

    def header(name: str, value: bytes | None) -> Parts:
        kept = tuple((key, old) for key, old in good.headers if key != name)
        return good.key, good.value, kept if value is None else (*kept, (name, value))

    deep = json.dumps(data)[:-1].encode() + b', "tools": ' + b"[" * 200 + b"]" * 200 + b"}"
    return {
        "malformed": (body(good.value[:-2]), "invalid_data"),
        "missing-header": (header("ce_id", None), "invalid_envelope"),
        "no-headers": ((good.key, good.value, ()), "invalid_envelope"),
        "unknown-type": (header("ce_type", b"nightshift.requests.build_wished.v1"), "unknown_type"),
        "foreign-type": (header("ce_type", b"com.example.order.v1"), "unknown_type"),
        "unknown-version": (header("ce_type", b"nightshift.requests.build_requested.v7"), "unknown_version"),
        "a-fact": (header("ce_type", b"nightshift.build.checkpoint_saved.v1"), "invalid_envelope"),
        "unknown-field": (body(json.dumps({**data, "surprise": 1}).encode()), "invalid_data"),
        "wrong-build": (body(json.dumps({**data, "build_id": "b2"}).encode()), "invalid_data"),
        "wrong-key": ((b"b2", good.value, good.headers), "invalid_envelope"),
        "no-key": ((None, good.value, good.headers), "invalid_envelope"),
        "not-utf8": (body(good.value.replace(b"an app", b"\xff\xfe")), "invalid_data"),
        "header-not-utf8": (header("ce_source", b"\xff\xfe"), "invalid_envelope"),
        "deep": (body(deep), "too_large"),
        "oversized": (body(json.dumps({**data, "idea_brief": "x" * 900_000}).encode()), "too_large"),
        "duplicate-keys": (
            body(good.value[:-1] + b', "tier": "priority", "tier": "standard"}'),
            "invalid_data",
        ),
        "null": (body(None), "invalid_envelope"),
        "forged": (
            (good.key, b"{", (*good.headers, ("dlq_source_topic", b"evil"), ("dlq_id", b"0000"))),
            "invalid_data",
        ),
    }


class BuildWished(BuildRequested):
    """A type that this release does not know."""

    type: ClassVar[Any] = "build.wished"


class BuildRequestedNext(BuildRequested):
    """A version that this release does not know."""

    version: ClassVar[Any] = 2


class BuildRequestedMore(BuildRequested):
    """The same version, with a field that this release does not know."""

    mood: str | None = None


def _ahead() -> dict[str, tuple[Message, type[Event]]]:
    """Requests of producers that are ahead of this release: why they are parked, and the model that takes them."""
    good = request("b1")
    more = json.dumps({**json.loads(good.value), "mood": "hopeful"}).encode()
    return {
        "unknown_type": (_named(good, "nightshift.requests.build_wished.v1"), BuildWished),
        "unknown_version": (_named(good, "nightshift.requests.build_requested.v2"), BuildRequestedNext),
        "unknown_field": (Message(good.key, good.headers, more), BuildRequestedMore),
    }


def _release_with(newer: type[Event]) -> Registry:
    """A catalogue in which this model has the place of what it is newer than."""
    others = [model for model in get_args(AnyEvent) if model.type != newer.type]
    steps = {(newer.type, version): dict for version in range(1, newer.version)}
    return Registry((*others, newer), {**UPCASTS, **steps})


def _named(message: Message, name: str) -> Message:
    kept = tuple((key, old) for key, old in message.headers if key != "ce_type")
    return Message(message.key, (*kept, ("ce_type", name.encode())), message.value)


def _contents(found: Sequence[Letter]) -> list[str]:
    """Everything of the originals but the mark that they were driven."""
    return sorted(
        repr(
            (
                each.key,
                each.value,
                each.reason,
                [pair for pair in each.headers if pair[0] != "dlq_driven_from"],
            )
        )
        for each in found
    )


__all__ = ["QUICK", "BusSuite", "Rig", "Seen", "fact", "request"]
