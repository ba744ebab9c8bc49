"""Every request is checked against the account of its build, whichever service handles it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from nightshift.bus.port import Subscription
from nightshift.bus.request_guard import guarded
from nightshift.contracts import registry
from nightshift.contracts.events.build import BuildAccepted
from nightshift.contracts.model import Event, Owner
from nightshift.contracts.readers import subscribed
from nightshift.contracts.registry import CATALOGUE, subject_of
from nightshift.contracts.topics import Topics
from nightshift.eventlog.errors import NotPermitted
from nightshift.eventlog.memory import MemoryEventLog
from nightshift.eventlog.port import NewEvent, RecordedEvent, account_stream, build_stream

GOLDEN = Path(__file__).parents[3] / "libs/contracts/golden"
NOW = datetime(2026, 11, 22, tzinfo=UTC)
REQUESTS = [model for model in CATALOGUE.newest.values() if model.owner is Owner.OUTSIDE and model.supported]


def example(model: type[Event]) -> Event:
    """The request of the type's golden file: for a build of account `acme`, or about that account."""
    file = GOLDEN / f"{registry.wire_name(model.type, model.version)}.json"
    return registry.validate(model.type, model.version, json.loads(file.read_text())["data"])


async def log_with(build_id: str, account_id: str) -> MemoryEventLog:
    log = MemoryEventLog()
    fields = {"project_id": "p", "idea_brief": "x", "model": "m", "turn_limit": 1, "tool_call_limit": 1}
    accepted = BuildAccepted(build_id=build_id, account_id=account_id, **fields)
    await log.append(build_stream(build_id), [NewEvent(accepted, uuid4())])
    return log


async def handled(model: type[Event], principal: str | None, *, owner: str = "acme") -> bool:
    """Whether the handler of this type saw a request of this principal, about a build of `owner`."""
    request = example(model)
    subject = subject_of(request) or ""
    log = await log_with("night-7" if model.stream == "account" else subject, owner)
    seen: list[RecordedEvent] = []

    async def handler(event: RecordedEvent) -> None:
        seen.append(event)

    subscription = guarded(Subscription(Topics().requests, "g", {model: handler}), log)
    stream = account_stream(subject) if model.stream == "account" else build_stream(subject)
    event = RecordedEvent(uuid4(), stream, 0, request, subject, uuid4(), "/acme", None, NOW, principal)
    try:
        await subscription.handlers[model](event)
    except NotPermitted:
        assert not seen
        return False
    return bool(seen)


@pytest.mark.parametrize("model", REQUESTS, ids=lambda model: model.type)
async def test_an_account_asks_only_for_what_is_its_own(model):
    assert not await handled(model, "account/other")
    assert await handled(model, "account/acme") is (model.stream == "build")
    assert await handled(model, "operator")
    assert await handled(model, None)


@pytest.mark.parametrize("model", REQUESTS, ids=lambda model: model.type)
async def test_the_account_of_a_build_is_that_of_the_log(model):
    if model.stream == "build":
        assert not await handled(model, "account/acme", owner="other")


def test_every_request_is_handled_behind_the_guard():
    covered = {model for _, family, handled in subscribed() if family == "requests" for model in handled}
    assert covered == set(REQUESTS)
