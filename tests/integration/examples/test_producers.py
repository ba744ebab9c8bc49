"""The examples as somebody would run them, against a real broker; what arrives is read as the orchestrator would."""

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer
from tests.support import examples
from tests.support.examples import run_example

from nightshift.contracts.cloudevents import decode_request
from nightshift.contracts.events.requests import BuildRequested

pytestmark = pytest.mark.kafka


async def first_message(bootstrap: str, topic: str):
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        return await asyncio.wait_for(consumer.getone(), 20)
    finally:
        await consumer.stop()


def check(message, build_id: str, idea: str) -> None:
    received = decode_request(message.key, message.headers, message.value)
    assert isinstance(received.event, BuildRequested)
    assert received.envelope.subject == received.event.build_id == build_id
    assert received.event.idea_brief == idea
    assert received.event.account_id == "acme"
    assert len(received.event.understanding_qna) == 1


async def test_a_service_with_the_contracts_asks_for_a_build(kafka, topics):
    idea = "Bücher leihen – with ☕"
    build_id = await run_example(
        "produce_with_contracts.py",
        *("--bootstrap", kafka.bootstrap, "--topic-prefix", topics.prefix),
        *("--idea", idea, "--account", "acme", "--build-id", "night-1"),
    )
    assert build_id == "night-1"
    check(await first_message(kafka.bootstrap, topics.requests), build_id, idea)


async def test_a_service_without_the_contracts_asks_for_a_build(kafka, topics):
    idea = "Bücher leihen – with ☕"
    build_id = await run_example(
        "produce_plain.py",
        *("--bootstrap", kafka.bootstrap, "--topic", topics.requests),
        *("--idea", idea, "--account", "acme"),
    )
    check(await first_message(kafka.bootstrap, topics.requests), build_id, idea)


async def test_a_build_id_that_is_not_given_is_new_each_time(kafka, topics):
    arguments = ("--bootstrap", kafka.bootstrap, "--topic-prefix", topics.prefix)
    first, second = await asyncio.gather(
        run_example("produce_with_contracts.py", *arguments),
        run_example("produce_with_contracts.py", *arguments),
    )
    assert first != second


async def test_an_undeclared_import_of_an_example_fails(monkeypatch):
    monkeypatch.setitem(examples.OURS, "produce_with_contracts.py", ())
    with pytest.raises(AssertionError, match="No module named 'nightshift"):
        await run_example("produce_with_contracts.py", "--help")


def test_every_example_is_run():
    assert set(examples.OURS) == {path.name for path in examples.EXAMPLES.glob("*.py")}
