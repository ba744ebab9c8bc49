"""A record whose handler kills the process, again after each restart, is found and dead-lettered."""

import asyncio
import sys
from pathlib import Path

import pytest
from tests.integration.bus.conftest import KafkaRig
from tests.support.bus_suite import request
from tests.support.waiting import eventually

from nightshift.bus.port import Outgoing
from nightshift.devstack.parts import KafkaAddress

pytestmark = pytest.mark.kafka


@pytest.mark.timeout(240)
async def test_killer_is_dead_lettered_after_a_few_restarts(rig: KafkaRig, kafka: KafkaAddress) -> None:
    for partition in (0, 1):
        for build in ("first", "killer" if partition else "second", "last"):
            message = request(f"{build}" if build == "killer" else f"{build}-{partition}")
            await rig.producer.send(
                [Outgoing(rig.topics.requests, message.key, message.value, message.headers, partition)]
            )
    handled: list[str] = []
    ends = 0
    while not await rig.dead_letters().list():
        ends += 1
        assert ends <= 6, "the same record ends the process for ever"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("dying_consumer.py")),
            kafka.bootstrap,
            rig.topics.prefix,
            "1" if kafka.idempotence else "0",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        while line := await process.stdout.readline():
            words = line.decode().split()
            if words[:1] == ["handled"]:
                handled.append(words[1])
                if words[1] == "last-1":
                    process.stdin.close()
        await process.wait()
    [dead] = [each.dead_letter for each in await rig.dead_letters().list()]
    assert (dead.key, dead.reason, dead.branch) == (b"killer", "process_ended", "fault")
    assert set(handled) == {"first-0", "second-0", "last-0", "first-1", "last-1"}
    committed = await eventually(lambda: rig.committed(f"{rig.topics.prefix}.dying", rig.topics.requests))
    assert committed == 6
