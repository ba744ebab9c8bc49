"""`nightshift secrets` and `nightshift network`: values are stored for their owner alone and never printed."""

import io
import json
import stat
from pathlib import Path
from uuid import uuid4

import pytest

from nightshift.cli.commands.network import used
from nightshift.cli.exits import Exit
from nightshift.cli.main import run
from nightshift.contracts.events.sandbox import NetworkUse, ToolCallCompleted
from nightshift.eventlog.memory import MemoryEventLog
from nightshift.eventlog.port import NewEvent
from nightshift.sandboxes.egress.secret_store import SecretStore

VALUE = "sk-canary-0123456789"


def command(*words: str, home: Path) -> int:
    return run(["secrets", *words, "--account", "family", "--home", str(home)])


def test_a_secret_is_stored_replaced_listed_and_removed(tmp_path, monkeypatch, capfd):
    for value in (VALUE, VALUE + "-new"):
        monkeypatch.setattr("sys.stdin", io.StringIO(value + "\n"))
        assert command("set", "KEY", "--host", "API.example.org", home=tmp_path) == Exit.OK
    assert command("list", "--json", home=tmp_path) == Exit.OK
    shown = capfd.readouterr()
    assert json.loads(shown.out) == [{"name": "KEY", "hosts": ["api.example.org"]}]
    assert VALUE not in shown.out + shown.err
    stored = SecretStore(tmp_path / "secrets").get("family", "KEY")
    assert stored is not None
    assert (stored.value, stored.earlier) == (VALUE + "-new", (VALUE,))
    assert VALUE not in repr(stored)
    [file] = (tmp_path / "secrets" / "family").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert command("rm", "KEY", home=tmp_path) == Exit.OK
    assert command("rm", "KEY", home=tmp_path) == Exit.NOT_FOUND


@pytest.mark.parametrize(
    ("name", "host", "value"),
    [
        ("KEY", "127.0.0.1", VALUE),
        ("KEY", "*.example.org", VALUE),
        ("KEY", "api.anthropic.com", VALUE),
        ("../KEY", "api.example.org", VALUE),
        ("KEY", "api.example.org", "short"),
        ("KEY", "api.example.org", VALUE + "\nsecond line"),
    ],
)
def test_a_wrong_secret_is_refused_without_its_value(tmp_path, monkeypatch, capfd, name, host, value):
    monkeypatch.setattr("sys.stdin", io.StringIO(value))
    assert command("set", name, "--host", host, home=tmp_path) == Exit.USAGE
    assert value not in capfd.readouterr().err
    assert not list(tmp_path.rglob("*.json"))


async def test_traffic_is_summed_by_host():
    uses = [
        (NetworkUse(host="a.example.org", connections=1, sent=10, received=100),),
        (
            NetworkUse(host="a.example.org", connections=2, sent=1, received=1),
            NetworkUse(host="b.example.org", refused=3, reason="not allowed"),
        ),
        None,
    ]
    log = MemoryEventLog()
    for index, network in enumerate(uses):
        result = ToolCallCompleted(
            call_id=f"b/1/{index}", is_error=False, output="", duration_ms=1, network=network
        )
        await log.append("build-b", [NewEvent(result, uuid4())])
    found = used([event async for event in log.read_stream("build-b")])
    assert [(one.host, one.connections, one.sent, one.received, one.refused) for one in found] == [
        ("a.example.org", 3, 11, 101, 0),
        ("b.example.org", 0, 0, 0, 3),
    ]
