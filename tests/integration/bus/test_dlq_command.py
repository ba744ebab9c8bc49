"""`nightshift dlq` against a real broker, through the command itself."""

import asyncio
import json
import logging

import pytest
import structlog
from tests.support.bus_suite import QUICK, Seen, request
from tests.support.waiting import eventually

from nightshift.bus.port import Outgoing, Subscription
from nightshift.cli.exits import Exit
from nightshift.cli.main import run
from nightshift.contracts.envelope import Message
from nightshift.contracts.events.requests import BuildRequested
from nightshift.eventlog.errors import Refused

pytestmark = pytest.mark.kafka


@pytest.fixture
async def command(rig, monkeypatch, capsys, tmp_path):
    """Runs one command line in a thread, as a process of its own would; gives exit code, stdout, stderr."""
    monkeypatch.setenv("NIGHTSHIFT_KAFKA_BOOTSTRAP", rig.settings.kafka_bootstrap)
    monkeypatch.setenv("NIGHTSHIFT_KAFKA_IDEMPOTENCE", str(rig.settings.kafka_idempotence))
    monkeypatch.setenv("NIGHTSHIFT_TOPIC_PREFIX", rig.topics.prefix)

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    async def go(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = await asyncio.to_thread(run, ["dlq", *arguments, "--home", str(tmp_path)])
        out, err = capsys.readouterr()
        return code, out, err

    yield go
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


async def test_list_show_and_redrive(rig, command):
    broken = True
    seen = Seen(fail=lambda event: Refused("not \x1b]0;yet") if broken else None)
    subscription = Subscription(rig.topics.requests, f"{rig.topics.prefix}.r", {BuildRequested: seen})
    async with rig.consumers(subscription, policy=QUICK):
        garbage = Message(b"b3", request("b3").headers, b'{"\x1b[31m')
        for message in (request("b1", idea_brief="one"), request("b2", idea_brief="two"), garbage):
            await rig.producer.send([Outgoing.of(rig.topics.requests, message)])
        await eventually(lambda: _count(rig, 3), timeout=20)

        code, out, _ = await command("list", "--json")
        letters = json.loads(out)
        assert code == Exit.OK
        assert sorted((each["key"], each["reason"], each["topic"]) for each in letters) == [
            ("b1", "refused", rig.topics.requests),
            ("b2", "refused", rig.topics.requests),
            ("b3", "invalid_data", rig.topics.requests),
        ]
        code, out, _ = await command("list", "--reason", "invalid_data", "--limit", "5")
        assert (code, out.count(rig.topics.requests)) == (Exit.OK, 1)

        ids = {each["key"]: each["id"] for each in letters}
        code, out, _ = await command("show", ids["b3"][:8])
        assert code == Exit.OK
        assert "\x1b" not in out
        assert "\\x1b[31m" in out
        assert "ce_type" in out
        code, out, _ = await command("show", ids["b1"], "--json")
        assert json.loads(json.loads(out)["body"])["idea_brief"] == "one"

        code, out, err = await command("redrive", ids["b1"])
        assert (code, out) == (Exit.ERROR, "")
        assert "--yes" in err
        code, out, _ = await command("redrive", ids["b1"], "--dry-run", "--json")
        assert (code, json.loads(out)[0]["driven"]) == (Exit.OK, False)
        assert seen.events == []

        broken = False
        code, out, _ = await command("redrive", ids["b1"], "--yes", "--json")
        assert (code, json.loads(out)[0]["driven"]) == (Exit.OK, True)
        await eventually(lambda: seen.subjects == ["b1"], timeout=20)
        code, out, _ = await command("list", "--json")
        assert {each["key"] for each in json.loads(out)} == {"b2", "b3"}
        code, out, _ = await command("list", "--all", "--json")
        assert {each["key"]: each["driven"] for each in json.loads(out)} == {
            "b1": True,
            "b2": False,
            "b3": False,
        }

        code, out, _ = await command("redrive", "--all", "--yes", "--reason", "refused")
        assert code == Exit.OK
        await eventually(lambda: seen.subjects == ["b1", "b2"], timeout=20)


async def test_wrong_usage_and_unknown_ids_have_their_exit_codes(command):
    assert (await command("show", "ffff"))[0] == Exit.NOT_FOUND
    assert (await command("redrive", "--yes"))[0] == Exit.USAGE
    assert (await command("redrive", "--all", "abcd", "--yes"))[0] == Exit.USAGE
    code, out, _ = await command("list", "--json")
    assert (code, json.loads(out)) == (Exit.OK, [])


async def test_the_former_name_of_redrive_still_works(command):
    code, out, err = await command("drive", "--all", "--dry-run", "--json")
    assert (code, json.loads(out)) == (Exit.OK, [])
    assert "use `nightshift dlq redrive`" in err


async def _count(rig, wanted: int) -> bool:
    return len(await rig.dead_letters().list()) == wanted
