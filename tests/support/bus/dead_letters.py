"""Malformed messages are dead-lettered unchanged, and can be redriven after a fix."""

import json
from base64 import b64encode
from collections.abc import Sequence
from typing import Any, ClassVar, get_args

import pytest
from tests.support.bus.rig import BusPromises, Parts, Rig, Seen, fact, parts, request
from tests.support.waiting import eventually

from nightshift.bus.dead_letter_codec import DeadLetter
from nightshift.bus.port import Outgoing, Subscription
from nightshift.contracts.envelope import Message
from nightshift.contracts.events import AnyEvent
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.model import Event
from nightshift.contracts.registry import Registry
from nightshift.contracts.upcasts import UPCASTS
from nightshift.eventlog.errors import Refused


class DeadLetterSuite(BusPromises):
    """Inherited by a test class per adapter."""

    @pytest.mark.parametrize("message", ["binary", "structured", "structured in base64"])
    async def test_request_is_read_in_both_modes(self, rig: Rig, message: str) -> None:
        seen, made = Seen(), request("b1")
        if message != "binary":
            made = _structured(made, in_base64=message.endswith("base64"))
        async with rig.consumers(self.requests(rig, seen)):
            await self.send(rig, rig.topics.requests, made)
            await eventually(lambda: seen.subjects == ["b1"])
        assert seen.events[0].data.idea_brief == "an app"

    async def test_every_malformed_message_is_dead_lettered_and_redriven(self, rig: Rig) -> None:
        seen, poison = Seen(), _poison()
        async with rig.consumers(self.requests(rig, seen)):
            for name, (message, _reason) in poison.items():
                part = self._part(rig)
                await rig.producer.send([Outgoing(rig.topics.requests, *message, partition=part)])
                await rig.producer.send(
                    [Outgoing(rig.topics.requests, *parts(request(f"after-{name}")), partition=part)]
                )
            await eventually(lambda: len(seen.events) == len(poison), timeout=20)
            dead = await eventually(lambda: self._dead_letters(rig, len(poison)))
        assert [each.subject for each in seen.events] == [f"after-{name}" for name in poison]
        found = {each.source_offset // 2: each for each in dead}
        for index, (name, ((key, value, headers), reason)) in enumerate(poison.items()):
            one = found[index]
            assert one.reason == reason, (name, one.error)
            assert name != "http-prefix" or "ce_" in one.error, one.error  # the error names the cause
            assert (one.key, one.value, one.headers) == (key, value, tuple(headers)), name

        # Driven without a fix, each comes back as a one of its own; its bytes are still the same.
        for one in dead:
            await rig.dead_letters().redrive(one, rig.producer, None)
        async with rig.consumers(self.requests(rig, seen)):
            again = await eventually(lambda: self._dead_letters(rig, len(poison)), timeout=20)
        assert not {each.id for each in again} & {each.id for each in dead}
        assert _contents(again) == _contents(dead)

    @pytest.mark.parametrize("reason", ["unknown_type", "unknown_version", "unknown_field"])
    async def test_dead_letter_is_handled_when_redriven_after_the_fix(self, rig: Rig, reason: str) -> None:
        """The fix is a release that knows the type, the version, the field."""
        message, newer = _ahead()[reason]
        async with rig.consumers(self.requests(rig, Seen())):
            await self.send(rig, rig.topics.requests, message)
            (one,) = await eventually(lambda: self._dead_letters(rig, 1))
        assert one.reason == ("invalid_data" if reason == "unknown_field" else reason)

        seen = Seen()
        fixed = Subscription(rig.topics.requests, f"{rig.topics.prefix}.r", {newer: seen})
        async with rig.consumers(fixed, registry=_release_with(newer)):
            await rig.dead_letters().redrive(one, rig.producer, None)
            await eventually(lambda: seen.subjects == ["b1"])
        assert type(seen.events[0].data) is newer
        assert await rig.dead_letters().list() == []
        assert [each.redriven for each in await rig.dead_letters().list(lambda _: True)] == [True]

    async def test_fact_is_redriven_though_later_ones_were_handled(self, rig: Rig) -> None:
        broken = True
        seen = Seen(fail=lambda event: Refused("bug") if broken and event.version == 1 else None)
        async with rig.consumers(self.facts(rig, seen)):
            await self.send(rig, rig.topics.build, fact("b1", 1), fact("b1", 2))
            await eventually(lambda: seen.versions() == {"b1": [2]})
            (one,) = await eventually(lambda: self._dead_letters(rig, 1))
            broken = False
            await rig.dead_letters().redrive(one, rig.producer, None)
            await eventually(lambda: seen.versions() == {"b1": [2, 1]})

    async def test_large_body_is_stored_by_digest_and_redriven_whole(self, rig: Rig) -> None:
        broken = True
        seen = Seen(fail=lambda event: Refused("no") if broken else None)
        large = request("b1", idea_brief="x" * 40_000)
        async with rig.consumers(self.requests(rig, seen), carry_limit=32_768):
            await self.send(rig, rig.topics.requests, large)
            (one,) = await eventually(lambda: self._dead_letters(rig, 1))
            assert one.value is None
            assert one.value_bytes == len(large.value)
            assert await rig.objects.get(f"dead-letters/{str(one.value_ref)[7:]}") == large.value
            broken = False
            await rig.dead_letters().redrive(one, rig.producer, rig.objects)
            await eventually(lambda: seen.subjects == ["b1"])


def _structured(message: Message, *, in_base64: bool) -> Message:
    document = {name[3:]: value.decode() for name, value in message.headers if name.startswith("ce_")}
    if in_base64:
        document["data_base64"] = b64encode(message.value).decode()
    else:
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
        "http-prefix": (
            (good.key, good.value, tuple((key.replace("ce_", "ce-"), old) for key, old in good.headers)),
            "invalid_envelope",
        ),
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


def _contents(found: Sequence[DeadLetter]) -> list[str]:
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
