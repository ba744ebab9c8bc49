"""Sends builds from inside a cluster, waits for them and judges them: `python -m tests.support.cluster_builds …`.

send PREFIX COUNT WORDS    requests builds PREFIX-0, PREFIX-1, … of accounts of their own, whose brief has these words
wait PREFIX COUNT STATUS   waits until all have this status; prints the seconds
judge PREFIX COUNT         prints, as JSON, each build's outcome and every broken promise
top-up PREFIX COUNT        gives the accounts of these builds a large budget
"""

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.support import build_invariants

from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.port import Outgoing
from nightshift.bus.settings import KafkaSettings
from nightshift.cli.queries import Builds, open_builds
from nightshift.contracts.cloudevents import encode_request
from nightshift.contracts.events.account import AccountOpened, AccountToppedUp
from nightshift.contracts.events.build import ModelCallFailed, ModelCallStarted
from nightshift.contracts.events.requests import BuildRequested
from nightshift.eventlog.errors import NotFound, Unavailable

_HOME = Path("/nowhere")
_CHECK = {"name": "steps", "command": "test -s STEPS.md"}
#: Microdollars a day. The second pays one costly step of the scenario, and then the build sleeps.
_PLENTY, _POOR = 1_000_000_000, 300_000
_DAYS = 30


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}-{number}" for number in range(count)]


async def publish(requests: list[Any]) -> None:
    settings = KafkaSettings.load()
    async with KafkaProducer(settings, client_id="cluster-test") as producer:
        messages = [encode_request(one, id=str(uuid4()), source="/nightshift/test") for one in requests]
        await producer.send([Outgoing.of(settings.topics.requests, message) for message in messages])


def account(name: str, day_microusd: int) -> AccountOpened:
    return AccountOpened(account_id=name, period_budget_microusd=day_microusd * _DAYS, period_days=_DAYS)


async def send(prefix: str, count: int, words: str, *, rich: bool = True) -> None:
    ids = names(prefix, count)
    await publish([account(one, _PLENTY if rich else _POOR) for one in ids])
    async with open_builds(_HOME) as builds:
        for one in ids:
            while not await builds.has_account(one):  # noqa: ASYNC110 - another process opens it
                await asyncio.sleep(0.1)
    fields = {"idea_brief": f"{words}: a page", "checks": [_CHECK]}
    await publish(
        [
            BuildRequested.model_validate({"build_id": one, "project_id": one, "account_id": one, **fields})
            for one in ids
        ]
    )


async def status(builds: Builds, name: str) -> str:
    try:
        return (await builds.status(name)).state
    except (NotFound, Unavailable):
        return "absent"


async def wait(prefix: str, count: int, wanted: str, within: float = 900.0) -> None:
    began, left, seen = time.monotonic(), names(prefix, count), Counter[str]()
    async with open_builds(_HOME) as builds:
        while left:
            found = {name: await status(builds, name) for name in left}
            left = [name for name, one in found.items() if one != wanted]
            seen = Counter(found.values())
            if time.monotonic() - began > within:
                sys.exit(f"after {within:.0f} s: {dict(seen)}, such as {left[:3]}")
            await asyncio.sleep(0.5)
    print(f"{time.monotonic() - began:.1f}")


async def judge(prefix: str, count: int) -> None:
    broken: dict[str, list[str]] = {}
    totals: Counter[str] = Counter()
    async with open_builds(_HOME) as builds:
        for name in names(prefix, count):
            found = await builds.events(name)
            data = [event.data for event in found]
            totals[(await builds.status(name)).state] += 1
            totals["model calls"] += sum(isinstance(one, ModelCallStarted) for one in data)
            totals["model calls abandoned"] += sum(isinstance(one, ModelCallFailed) for one in data)
            totals["events"] += len(data)
            if problems := build_invariants.violations(data):
                broken[name] = problems
    print(json.dumps({"totals": dict(totals), "broken": broken}))


async def main(arguments: list[str]) -> None:
    match arguments:
        case ["send", prefix, count, words]:
            await send(prefix, int(count), words)
        case ["send-poor", prefix, count, words]:
            await send(prefix, int(count), words, rich=False)
        case ["top-up", prefix, count]:
            await publish(
                [
                    AccountToppedUp(account_id=one, amount_microusd=_PLENTY)
                    for one in names(prefix, int(count))
                ]
            )
        case ["wait", prefix, count, wanted]:
            await wait(prefix, int(count), wanted)
        case ["judge", prefix, count]:
            await judge(prefix, int(count))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
