"""The table of readers against the subscriptions that the services really make."""

from importlib import import_module
from unittest.mock import AsyncMock, MagicMock

import pytest

from nightshift.contracts.asyncapi import document
from nightshift.contracts.model import Owner, Request
from nightshift.contracts.readers import EVERY_REPLICA, SUBSCRIPTIONS, readers_of, subscribed
from nightshift.contracts.reference import events_page
from nightshift.contracts.registry import CATALOGUE, wire_name
from nightshift.contracts.topics import FAMILIES, Topics

SERVICES = [owner for owner in Owner if owner is not Owner.OUTSIDE]


class Subscribed(Exception):
    """Ends the start of a service once it has subscribed."""


async def subscriptions(service, monkeypatch):
    """The subscriptions that the service's composition root makes, without any server."""
    app = import_module(f"nightshift.{service.value.replace('-', '_')}.app")
    services = MagicMock(leases=AsyncMock(), pool=AsyncMock(), consume=AsyncMock(side_effect=Subscribed))
    monkeypatch.setattr(app, "connect", AsyncMock(return_value=services))
    monkeypatch.setattr(app, "make_driver", AsyncMock(), raising=False)
    running = MagicMock(enter=AsyncMock(), spawn=lambda work, **_: work.close())
    running.settings.configure_mock(
        topics=Topics("t1"),
        replica_id="replica-1",
        fail_point=None,
        gateway_builds=1,
        snapshot_parallel=1,
        preview_base=None,
    )
    with pytest.raises(Subscribed):
        await app.start(running)
    [made] = services.consume.await_args.args
    return made


@pytest.mark.parametrize("service", SERVICES)
async def test_the_table_lists_what_each_service_subscribes_to(service, monkeypatch):
    made = await subscriptions(service, monkeypatch)
    topics, expected = Topics("t1"), {}
    for reader, family, models in subscribed():
        if reader is service:
            topic = topics.family(family)
            own = (reader, family) in EVERY_REPLICA
            group = topics.replica_group(reader, topic, "replica-1") if own else topics.group(reader, topic)
            expected[topic] = (group, models)
    assert {one.topic: (one.group, frozenset(one.handlers)) for one in made} == expected
    assert len(made) == len(expected)


def test_every_service_with_a_topic_of_its_own_is_in_the_table():
    assert set(SUBSCRIPTIONS) == set(SERVICES)
    assert {(reader, family) for reader, family, _ in subscribed()} >= EVERY_REPLICA


def test_every_request_has_exactly_one_reader():
    for model in CATALOGUE.newest.values():
        if model.owner is Owner.OUTSIDE:
            assert len(readers_of(model)) == 1, model.type


def test_the_asyncapi_operations_name_the_messages_that_are_handled():
    operations = document()["operations"]
    received = {name: one for name, one in operations.items() if one["action"] == "receive"}
    assert set(received) == {f"{reader}.receive.{family}" for reader, family, _ in subscribed()}
    for reader, family, models in subscribed():
        names = {one["$ref"].rpartition("/")[2] for one in received[f"{reader}.receive.{family}"]["messages"]}
        assert names == {wire_name(model.type, model.version) for model in models}


def test_the_page_names_the_readers_of_each_topic_and_event():
    page = events_page()
    for family in FAMILIES.values():
        section = page.partition(f"## nightshift.{family}.v1\n")[2].partition("\n## ")[0]
        readers = ", ".join(f"`{reader}`" for reader, read, _ in subscribed() if read == family)
        assert f"Subscribers: {readers}.\n" in section
    for model in CATALOGUE.newest.values():
        told = page.partition(f"\n### {model.type}\n\n")[2].partition("\n")[0]
        assert ("refuses it" in told) is (issubclass(model, Request) and not model.supported)
        for reader in readers_of(model):
            assert f"`{reader}`" in told
