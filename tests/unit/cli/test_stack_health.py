"""`ps` and `doctor` report a process that keeps restarting, and work that waits longer than it should."""

import json
import os
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from nightshift.bus.kafka.progress import PartitionProgress
from nightshift.bus.settings import KafkaSettings
from nightshift.cli import consumer_lag, diagnosis
from nightshift.cli.commands import ps as ps_command
from nightshift.contracts.model import PendingKind
from nightshift.devstack.stack.restarts import Exit, RestartReport
from nightshift.eventlog.port import StalePending

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def report(exits: int) -> RestartReport:
    seconds = range(exits)
    return RestartReport(tuple(Exit(NOW + timedelta(seconds=s), 1, "no such role") for s in seconds), NOW)


@pytest.fixture
def stack(monkeypatch):
    """A stack with a relay and two orchestrators; the test sets the restarts."""
    restarts: dict[str, RestartReport] = {}
    described = {
        "postgres": {"dsn": "postgresql://u:secret@h/d", "pid": None},
        "services": {"relay": [{"pid": os.getpid()}], "orchestrator": [{"pid": os.getpid()}] * 2},
    }
    for module in (diagnosis, ps_command):
        monkeypatch.setattr(module, "read_stack", lambda home: json.loads(json.dumps(described)))
        monkeypatch.setattr(module, "read_restarts", lambda home: restarts)
    return restarts


def test_ps_reports_a_service_that_keeps_restarting(stack, capsys, tmp_path) -> None:
    stack |= {"orchestrator #2": report(3), "relay": report(1)}
    ps_command.ps(home=tmp_path)
    out, err = capsys.readouterr()
    states = {line.split("  ")[0]: line for line in out.splitlines()}
    assert "keeps restarting" in states["orchestrator #2"]
    assert "runs" in states["orchestrator"]
    assert "runs" in states["relay"]
    assert "not started by this stack" in states["postgres"]
    assert "orchestrator #2 exited 3 times in 1 s, last exit code 1: no such role" in err
    assert "secret" not in out
    ps_command.ps(home=tmp_path, json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["services"]["orchestrator"][1]["restarts"]["keeps_restarting"] is True
    assert told["services"]["relay"][0]["restarts"]["exits"] == 1
    assert "restarts" not in told["services"]["orchestrator"][0]


async def test_doctor_fails_when_a_service_keeps_restarting(stack, tmp_path) -> None:
    assert (await diagnosis.check_processes(tmp_path)).status == "pass"
    stack["relay"] = report(1)
    assert (await diagnosis.check_processes(tmp_path)).status == "pass"
    stack["orchestrator #2"] = report(4)
    found = await diagnosis.check_processes(tmp_path)
    assert found.status == "fail"
    assert "orchestrator #2 exited 4 times" in found.detail
    assert found.fix == f"read {tmp_path}/logs/orchestrator-2.log"


async def test_doctor_names_work_that_outlived_its_purpose(monkeypatch, tmp_path) -> None:
    row = StalePending(PendingKind.BUDGET_REQUEST, str(UUID(int=1)), "build-b7", NOW, None, "build_ended")
    rows: list[StalePending] = []

    async def stale(home):
        return rows

    monkeypatch.setattr(diagnosis, "stale_rows", stale)
    assert (await diagnosis.check_pending(tmp_path)).status == "pass"
    rows.append(row)
    found = await diagnosis.check_pending(tmp_path)
    assert found.status == "fail"
    assert "1 row" in found.detail
    assert "budget_request" in found.detail
    assert "build_ended" in found.detail
    assert "nightshift log b7" in found.fix


def progress(partition: int, committed: int | None, waiting_s: float | None) -> PartitionProgress:
    unread = 0 if waiting_s is None else 9 - (committed or 0)
    return PartitionProgress(
        "nightshift.budget.build", "nightshift.build.v1", partition, committed, 9, unread, waiting_s
    )


@pytest.mark.parametrize(
    ("first", "second", "status", "words"),
    [
        ([progress(0, 9, None), progress(1, 5, 2.0)], None, "pass", "up to date"),
        ([progress(0, 9, None), progress(1, 5, 90.0)], [progress(1, 5, 92.0)], "fail", "no progress"),
        ([progress(1, None, 90.0)], [progress(1, None, 92.0)], "fail", "at offset 0 of 9"),
        ([progress(1, 5, 90.0)], [progress(1, 7, 92.0)], "warn", "partition 1 of nightshift.build.v1"),
        ([progress(1, 5, 90.0)], [progress(1, 9, None)], "pass", "up to date"),
    ],
)
async def test_doctor_judges_each_partition(monkeypatch, tmp_path, first, second, status, words) -> None:
    """A group that is up to date at one partition hides no other partition that stands still."""
    settings = KafkaSettings(kafka_bootstrap="h:1", topic_prefix="nightshift")
    answers = {"nightshift.budget.build": [first, second]}

    async def found(settings, groups):
        [group] = groups
        return answers[group].pop(0) if group in answers else []

    monkeypatch.setattr(diagnosis, "settings_for", lambda kind, home: settings)
    monkeypatch.setattr(consumer_lag, "partition_progress", found)
    monkeypatch.setattr(consumer_lag, "_BETWEEN_S", 0.0)
    finding = await diagnosis.check_consumers(tmp_path)
    assert finding.status == status
    assert words in finding.detail


def test_every_shared_group_is_judged() -> None:
    groups = consumer_lag.shared_groups(KafkaSettings(kafka_bootstrap="h:1", topic_prefix="t"))
    assert groups["t.orchestrator.requests"] == "t.requests.v1"
    assert groups["t.sandbox-gateway.snapshot"] == "t.snapshot.v1"
    assert len(groups) == 6
