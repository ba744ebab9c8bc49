"""The orchestrator as a process, from a request on Kafka to the end of the build in the log."""

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from tests.integration.orchestrator.conftest import RunningServers
from tests.support import build_invariants
from tests.support.waiting import eventually

from nightshift.contracts import prices
from nightshift.contracts.events.build import BuildAccepted, BuildReady, ModelCallFailed, ModelCallStarted
from nightshift.contracts.events.requests import BuildCancelRequested, BuildMessageSent, BuildRequested

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]


def asked(build_id: str, brief: str = "A page.", **more: Any) -> BuildRequested:
    fields = {"project_id": "p1", "account_id": "a1", "idea_brief": brief, **more}
    return BuildRequested(build_id=build_id, **fields)


async def dead_letters(servers: RunningServers, count: int) -> list[str]:
    """The reasons of the first `count` dead letters."""
    consumer = AIOKafkaConsumer(
        servers.topics.dead_letter, bootstrap_servers=servers.kafka.bootstrap, auto_offset_reset="earliest"
    )
    async with consumer:
        async with asyncio.timeout(20):
            return [str(dict((await consumer.getone()).headers)) for _ in range(count)]


async def test_from_a_request_to_ready_and_what_is_refused(servers: RunningServers):
    await servers.orchestrator("one")
    await servers.send(asked("b1", "A stumbling start."))
    events = await servers.reached("b1", "build.ready")
    data = [event.data for event in events]
    assert build_invariants.violations(data) == []
    failed = [event.kind for event in data if isinstance(event, ModelCallFailed)]
    assert failed[:2] == ["overloaded", "stream_cut"]
    ready = next(event for event in data if isinstance(event, BuildReady))
    assert (ready.build_version, ready.turns, ready.tool_calls) == (1, 3, 3)
    assert "code" in [getattr(event, "to_phase", None) for event in data]
    started = {event.event_id: event for event in events if isinstance(event.data, ModelCallStarted)}
    ended = [event for event in events if event.data.type in {"model_call.responded", "model_call.failed"}]
    assert all(event.causation_id in started for event in ended)

    # The same again changes nothing, ten times; other content is refused; so is what cannot be built.
    for number in range(10):
        await servers.send(asked("b1", "A stumbling start."), id=f"again-{number}")
    await servers.send(asked("b1", "Something else."), id="other")
    await servers.send(asked("b2", model="gpt-imaginary"))
    await servers.send(asked("b3", base_build_id="b1"))
    await servers.send(BuildMessageSent(build_id="nobody", message="Hello?"))
    await servers.send(BuildMessageSent(build_id="b1", message="Hello?"), principal="account/a2")
    await servers.send(asked("b2", account_id="a2"))
    reasons = await dead_letters(servers, 6)
    for words in (
        *("with other content", "gpt-imaginary", "base_build_id", "no build nobody"),
        *(
            "account/a2 asks for build.message_sent of build b1",
            "project p1 belongs to another account than a2",
        ),
    ):
        assert any(words in reason for reason in reasons), (words, reasons)
    assert await servers.types("b1") == [event.data.type for event in events]
    assert await servers.types("b2") == await servers.types("b3") == []

    # The project's second build is number 2.
    await servers.send(asked("b4"))
    (second,) = [e.data for e in await servers.reached("b4", "build.ready") if isinstance(e.data, BuildReady)]
    assert second.build_version == 2


@pytest.mark.fault
async def test_a_refusal_with_an_absurd_wait_is_retried_and_free(servers: RunningServers):
    await servers.orchestrator("one")
    await servers.send(asked("b1", "A refused start."))
    data = [event.data for event in await servers.reached("b1", "build.ready")]
    failed = [event for event in data if isinstance(event, ModelCallFailed)]
    assert [(event.kind, event.status, event.cost_microusd) for event in failed] == [
        ("rate_limited", 429, 0)
    ] * 2
    assert not {"build.stalled", "sleep.requested"} & {event.type for event in data}


async def test_a_killed_replica_is_replaced_and_a_cancel_stops_a_call(servers: RunningServers):
    await asyncio.gather(servers.orchestrator("one"), servers.orchestrator("two"))
    await servers.send(asked("b1", "An endless conversation."))
    events = await servers.reached("b1", "model_call.started")
    accepted = next(event for event in events if isinstance(event.data, BuildAccepted))
    owner = events[-1].actor.removeprefix("orchestrator/")
    assert accepted.actor.startswith("orchestrator/")
    await servers.kill(owner)
    events = await servers.reached("b1", "model_call.failed")
    (failed,) = [event.data for event in events if isinstance(event.data, ModelCallFailed)]
    (first,) = [event.data for event in events if isinstance(event.data, ModelCallStarted)][:1]
    assert (failed.kind, failed.cost_microusd) == ("abandoned", first.reserve_microusd)

    async def begun_again() -> bool:
        starts = [e for e in await servers.recorded("b1") if isinstance(e.data, ModelCallStarted)]
        return [(e.data.turn, e.data.attempt) for e in starts] == [(1, 1), (1, 2)]

    await eventually(begun_again, timeout=15)
    await servers.send(BuildMessageSent(build_id="b1", message="Hurry."), id="m")
    # The partition of the one that was killed is given to another only when its session is over (10 s on Kafka):
    # once a request is heard again, a cancel takes seconds.
    await servers.reached("b1", "agent.steered")
    await servers.send(BuildCancelRequested(build_id="b1", reason="Too slow."), id="c")
    events = await servers.reached("b1", "build.cancelled", timeout=5, promised=True)
    last = [event.data for event in events if isinstance(event.data, ModelCallFailed)][-1]
    assert last.kind == "cancelled"
    # Billed at what was seen of it; at its worst when it was under way and nothing was told yet.
    assert last.cost_microusd in {prices.cost("scripted-1", last.usage), first.reserve_microusd}
    assert "agent.steered" in [event.data.type for event in events]


@pytest.mark.long
async def test_sigterm_pays_for_no_call_twice(servers: RunningServers):
    await asyncio.gather(servers.orchestrator("one"), servers.orchestrator("two"))
    await servers.send(asked("b1", "An unhurried start."))
    started = (await servers.reached("b1", "model_call.started"))[-1]
    assert await servers.stop(started.actor.removeprefix("orchestrator/")) == 0
    events = await servers.reached("b1", "build.ready")
    assert build_invariants.violations([event.data for event in events]) == []
    assert not any(isinstance(event.data, ModelCallFailed) for event in events)
    answered = [event.actor for event in events if event.data.type == "model_call.responded"]
    assert answered[0] == started.actor
    assert set(answered[1:]) == {"orchestrator/one", "orchestrator/two"} - {started.actor}


@pytest.mark.fault
async def test_a_restarted_instance_releases_its_own_leases(servers: RunningServers):
    await servers.orchestrator("one", instance="the-only-one", build_lease_s="3600")
    await servers.send(asked("b1", "An endless conversation."))
    await servers.reached("b1", "model_call.started")
    await servers.kill("one")
    await servers.orchestrator("again", instance="the-only-one", build_lease_s="3600")
    events = await servers.reached("b1", "model_call.failed")
    assert events[-1].actor == "orchestrator/again"
