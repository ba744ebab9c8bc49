"""The table of readers against the subscriptions that the services really make."""

import inspect
from unittest.mock import create_autospec

import pytest

from nightshift.budget.handlers import Handlers as BudgetHandlers
from nightshift.contracts.asyncapi import document
from nightshift.contracts.model import Owner, Request
from nightshift.contracts.readers import EVERY_REPLICA, SUBSCRIPTIONS, readers_of, subscribed
from nightshift.contracts.reference import events_page
from nightshift.contracts.registry import CATALOGUE, wire_name
from nightshift.contracts.topics import FAMILIES
from nightshift.orchestrator.handlers import Handlers as OrchestratorHandlers
from nightshift.sandbox_gateway.handlers import Handlers as GatewayHandlers
from nightshift.snapshotter.handlers import Handlers as SnapshotterHandlers

HANDLERS = {
    Owner.ORCHESTRATOR: OrchestratorHandlers,
    Owner.SANDBOX_GATEWAY: GatewayHandlers,
    Owner.SNAPSHOTTER: SnapshotterHandlers,
    Owner.BUDGET: BudgetHandlers,
}


def handled(kind):
    """The event types that an instance of this class of handlers subscribes to, per topic family."""
    needs = list(inspect.signature(kind).parameters)
    handlers = kind(**{name: create_autospec(object) for name in needs})
    tables = [
        method()
        for name, method in inspect.getmembers(handlers, inspect.ismethod)
        if name.startswith("on_") and not inspect.signature(method).parameters
    ]
    for table in tables:
        assert len({model.owner for model in table}) == 1, "one subscription, one topic"
    return [frozenset(table) for table in tables]


@pytest.mark.parametrize("service", HANDLERS)
def test_the_table_lists_what_each_service_subscribes_to(service):
    tables = handled(HANDLERS[service])
    assert frozenset().union(*tables) == SUBSCRIPTIONS[service]
    assert set(tables) == {models for reader, _, models in subscribed() if reader is service}


def test_every_service_with_a_topic_of_its_own_is_in_the_table():
    assert set(SUBSCRIPTIONS) == set(HANDLERS) == set(Owner) - {Owner.OUTSIDE}
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
