"""A record that nobody can decode becomes one dead letter, although several groups read its topic."""

from dataclasses import dataclass

import pytest

from nightshift.bus.dispatch import Dispatcher
from nightshift.bus.port import Subscription
from nightshift.contracts.errors import ContractError
from nightshift.contracts.events.account import AccountToppedUp
from nightshift.contracts.registry import wire_name
from nightshift.eventlog.objects.memory import MemoryObjectStore


@dataclass(frozen=True)
class Record:
    """A record of the topic of requests."""

    headers: tuple[tuple[str, bytes], ...]
    value: bytes = b"{"
    key: bytes | None = b"a"
    topic: str = "t"
    partition: int = 0
    offset: int = 0
    timestamp: int = 0


async def _handle(_event) -> None:
    raise AssertionError("nothing can be decoded here")


def dispatcher(*, reports: bool) -> Dispatcher:
    subscription = Subscription("t", "g", {AccountToppedUp: _handle}, reports_undecodable=reports)
    return Dispatcher(subscription, objects=MemoryObjectStore())


async def test_one_group_reports_what_no_group_can_read():
    nameless = Record((("content-type", b"application/json"),))
    with pytest.raises(ContractError):
        await dispatcher(reports=True).handle(nameless)
    await dispatcher(reports=False).handle(nameless)


async def test_each_group_reports_what_names_its_own_type():
    named = Record((("ce_type", wire_name("account.topped_up", 1).encode()),))
    with pytest.raises(ContractError):
        await dispatcher(reports=False).handle(named)
