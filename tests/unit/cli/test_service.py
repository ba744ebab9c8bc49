"""`nightshift service` becomes the service's own process."""

import os
import subprocess
import sys

import pytest

from nightshift.cli import main as entry
from nightshift.cli.commands import service
from nightshift.cli.exits import Exit
from nightshift.devstack.stack.plan import SERVICES


@pytest.fixture
def executed(monkeypatch):
    calls = []
    monkeypatch.setattr(service.os, "execve", lambda *given: calls.append(given))
    return calls


@pytest.mark.parametrize("module", SERVICES)
def test_each_service_runs_as_the_same_process(executed, module):
    assert entry.run(["service", module.replace("_", "-")]) == Exit.OK
    [(program, arguments, _)] = executed
    assert (program, arguments) == (sys.executable, [sys.executable, "-m", f"nightshift.{module}"])


def test_json_overrides_the_log_format(executed, monkeypatch):
    monkeypatch.setenv("NIGHTSHIFT_LOG_FORMAT", "console")
    entry.run(["service", "relay", "--json"])
    assert executed[0][2]["NIGHTSHIFT_LOG_FORMAT"] == "json"


def test_an_unknown_service_is_named_with_those_known(executed, capfd):
    assert entry.run(["service", "gateway"]) == Exit.USAGE
    assert executed == []
    assert "sandbox-gateway" in capfd.readouterr().err


def test_the_exit_code_of_the_service_is_the_commands():
    bare = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTSHIFT_")}
    command = [sys.executable, "-m", "nightshift.cli", "service", "budget"]
    done = subprocess.run(command, check=False, env=bare, capture_output=True, text=True, timeout=60)
    assert done.returncode == Exit.CONFIGURATION
    assert "NIGHTSHIFT_POSTGRES_DSN is not set" in done.stderr
