"""Why a build waits and what to do: in `watch`, `builds`, `wait` and their JSON, within ten seconds."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID

import pytest
from tests.unit.cli.events import ACCEPTED, START, recorded, status_after

from nightshift.cli import follow
from nightshift.cli.commands import builds as builds_command
from nightshift.cli.commands import wait as wait_command
from nightshift.cli.exits import Exit
from nightshift.cli.follow import WaitLines, doing
from nightshift.cli.queries import QueuePlace
from nightshift.contracts.events.budget import BudgetDenied, BudgetGranted, WakeRequested
from nightshift.contracts.events.build import (
    AgentSteered,
    BudgetRequested,
    BuildCancelled,
    BuildPhaseChanged,
    BuildStalled,
    BuildWaiting,
    BuildWoken,
    ModelCallFailed,
    ModelCallStarted,
    Phase,
    SleepRequested,
    ToolCallRequested,
)
from nightshift.contracts.events.sandbox import SandboxClosed, SandboxOpened, SandboxStalled

LEASE = UUID(int=1)
STARTING = BuildPhaseChanged(from_phase=Phase.QUEUED, to_phase=Phase.STARTING)
MONEY_ASKED = BudgetRequested(lease_id=LEASE, account_id="ada", amount_microusd=9, minimum_microusd=1)
DENIED = BudgetDenied(
    lease_id=LEASE, account_id="ada", day="d1", left_today_microusd=0, refresh_at=START + timedelta(hours=2)
)
GRANTED = BudgetGranted(
    lease_id=LEASE, account_id="ada", day="d1", amount_microusd=9, left_today_microusd=1, expires_at=START
)
STARTED = ModelCallStarted(turn=1, attempt=1, model="scripted-1", lease_id=LEASE, reserve_microusd=9)
STALLED = BuildStalled(reason="dependency", detail="S3 does not answer", action="look after S3")
SANDBOX_STALLED = SandboxStalled(
    reason="refused", detail="404: no template 'web'", action="check E2B_TEMPLATE", attempt=3, since=START
)
TOOL_CALL = ToolCallRequested(call_id="b/1/0", turn=1, index=0, tool="bash", tool_use_id="t", input={})
OPENED = SandboxOpened(sandbox_id="s", driver="local", generation=0)
CLOSED = SandboxClosed(sandbox_id="s", reason="sleep")
STEERED = AgentSteered(reason="person", message="faster")


def stalled_sandbox(reason: str, detail: str, action: str) -> SandboxStalled:
    return SandboxStalled(reason=reason, detail=detail, action=action, attempt=1, since=START)


NO_SANDBOX = stalled_sandbox("refused", "unknown template", "set E2B_TEMPLATE")
RESTORE = stalled_sandbox("restore_refused", "no space", "free some")
IN_TEN_SECONDS = timedelta(seconds=10)


def failed(kind: str, *, status: int | None = 529, retry_s: float | None = 60) -> ModelCallFailed:
    retry_at = None if retry_s is None else START + timedelta(seconds=retry_s)
    return ModelCallFailed(
        turn=1, attempt=1, kind=kind, status=status, detail="Overloaded", retry_at=retry_at
    )


def asleep(reason: str, *, for_s: float | None = 7200) -> SleepRequested:
    wake_at = None if for_s is None else START + timedelta(seconds=for_s)
    return SleepRequested(reason=reason, account_id="ada", wake_at=wake_at)


@pytest.mark.parametrize(
    ("facts", "reason", "action"),
    [
        ((ACCEPTED,), "no orchestrator has started it", "nightshift ps"),
        ((ACCEPTED, STARTING, MONEY_ASKED), "its request for money is not answered", "budget service runs"),
        ((ACCEPTED, asleep("budget"), WakeRequested(reason="top_up")), "no orchestrator has woken it", "ps"),
        ((ACCEPTED, STARTED, failed("overloaded")), "overloaded (HTTP 529): Overloaded", "asked again at"),
        ((ACCEPTED, STARTED, failed("connection", status=None)), "connection: Over", "nightshift cancel b"),
        (
            (
                ACCEPTED,
                STARTED,
                failed("auth", status=401),
                BuildWaiting(reason="provider", detail="key ab12"),
            ),
            "refuses the key: key ab12",
            "ANTHROPIC_API_KEY",
        ),
        (
            (ACCEPTED, MONEY_ASKED, DENIED, asleep("budget")),
            "ada has too little left today",
            "account top-up ada",
        ),
        ((ACCEPTED, STARTED, failed("server"), asleep("provider")), "answered server", "asked again at"),
        ((ACCEPTED, asleep("person", for_s=None)), "asleep (person)", "nightshift wake b"),
        ((ACCEPTED, asleep("budget", for_s=2)), "ada has not enough left", "top-up ada AMOUNT"),
        ((ACCEPTED, STARTED, STALLED), "cannot go on: S3 does not answer", "look after S3"),
        ((ACCEPTED, STARTED, STALLED, asleep("person", for_s=None)), "S3 does not answer", "look after S3"),
        ((ACCEPTED, TOOL_CALL, NO_SANDBOX), "(refused): unknown template", "set E2B_TEMPLATE"),
        ((ACCEPTED, OPENED, TOOL_CALL, RESTORE), "(restore_refused): no space", "free some"),
        ((ACCEPTED, TOOL_CALL, NO_SANDBOX, STEERED), "(refused): unknown template", "set E2B_TEMPLATE"),
        ((ACCEPTED, STARTED, TOOL_CALL), "its tool calls have no sandbox", "sandbox-gateway runs"),
        ((ACCEPTED, TOOL_CALL, SANDBOX_STALLED), "(refused, 3 failures): 404: no", "check E2B_TEMPLATE"),
        ((ACCEPTED, OPENED, CLOSED, TOOL_CALL), "its tool calls have no sandbox", "sandbox-gateway runs"),
    ],
)
def test_a_wait_is_named_with_its_action_within_ten_seconds(facts, reason, action) -> None:
    status = status_after(*facts)
    now = START + timedelta(seconds=len(facts) - 1) + IN_TEN_SECONDS
    wait = status.waiting(now)
    assert wait is not None
    assert reason in wait.reason
    assert action in wait.action
    told = status.as_json(now)["waiting"]
    assert (told["reason"], told["action"]) == (wait.reason, wait.action)
    [line] = WaitLines().of(status, now)
    assert line.text == f"{wait.reason}; {wait.action}"


@pytest.mark.parametrize(
    "facts",
    [
        (ACCEPTED, STARTING),
        (ACCEPTED, MONEY_ASKED, GRANTED),
        (ACCEPTED, STARTED, failed("overloaded"), STARTED),
        (ACCEPTED, asleep("budget"), BuildWoken(reason="refresh")),
        (ACCEPTED, STARTED, STALLED, STARTED),
        (ACCEPTED, OPENED, TOOL_CALL),
        (ACCEPTED, TOOL_CALL, NO_SANDBOX, OPENED),
        (ACCEPTED, TOOL_CALL, OPENED),
        (ACCEPTED, TOOL_CALL, SANDBOX_STALLED, OPENED),
        (ACCEPTED, STARTED, failed("server"), BuildCancelled(reason="x", cost_microusd=0, turns=1)),
    ],
)
def test_a_build_that_goes_on_waits_for_nothing(facts) -> None:
    assert status_after(*facts).waiting(START + timedelta(hours=1)) is None


def test_a_prompt_service_is_not_called_late() -> None:
    assert status_after(ACCEPTED).waiting(START + timedelta(seconds=2)) is None


def test_a_reason_is_printed_once_and_again_when_it_comes_back() -> None:
    lines, waits = WaitLines(), status_after(ACCEPTED, STARTED, failed("overloaded"))
    told = [len(list(lines.of(waits, START))) for _ in range(3)]
    assert told == [1, 0, 0]
    assert list(lines.of(status_after(ACCEPTED, STARTED), START)) == []
    assert len(list(lines.of(waits, START))) == 1


def test_the_time_that_is_left_of_a_sleep_is_shown() -> None:
    status = status_after(ACCEPTED, asleep("budget", for_s=90))
    assert doing(status, START + timedelta(seconds=30)) == "asleep, wakes in 01:00.0"
    assert doing(status, START + timedelta(seconds=120)) == (
        "waits: account ada has not enough left for its next call"
    )


class Log:
    """Stands for the builds of an installation: one build, whose last event is the newest."""

    def __init__(self, *facts) -> None:
        self._facts = facts

    async def recent(self, limit: int):
        return [status_after(*self._facts)]

    async def queue(self) -> dict[str, QueuePlace]:
        return {"b": QueuePlace("ada", 37, 12)} if self._facts == (ACCEPTED,) else {}

    async def has_build(self, build_id: str) -> bool:
        return True

    async def follow(self, build_id: str, *, patience: float = 0.0) -> AsyncIterator[list]:
        yield recorded(self._facts)
        while True:
            await asyncio.sleep(0.01)
            yield []


@pytest.fixture
def stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command finds one build that waits for its provider."""

    @asynccontextmanager
    async def open_builds(home) -> AsyncIterator[Log]:
        yield Log(ACCEPTED, STARTED, failed("rate_limited", status=429))

    for module in (builds_command, wait_command):
        monkeypatch.setattr(module, "open_builds", open_builds)


async def test_builds_prints_the_reason_and_the_action(stalled, capsys) -> None:
    await builds_command.builds(json=False)
    out, err = capsys.readouterr()
    assert "waits: the model provider answered" in out
    assert "b waits: the model provider answered rate_limited (HTTP 429)" in err
    assert "`nightshift cancel b`" in err
    await builds_command.builds(json=True)
    [told] = json.loads(capsys.readouterr().out)
    assert "rate_limited" in told["waiting"]["reason"]


async def test_builds_prints_the_place_in_the_queue(monkeypatch, capsys) -> None:
    @asynccontextmanager
    async def opened(home):
        yield Log(ACCEPTED)

    monkeypatch.setattr(builds_command, "open_builds", opened)
    await builds_command.builds(json=False)
    assert "b is number 37 of the queue, 12 of its account" in capsys.readouterr().err
    await builds_command.builds(json=True)
    [told] = json.loads(capsys.readouterr().out)
    assert told["queue"] == {"position": 37, "of_account": 12}


async def test_a_wait_that_times_out_prints_the_reason(stalled, capsys) -> None:
    assert await wait_command.wait("b", timeout="0.1s") == Exit.TIMED_OUT
    err = capsys.readouterr().err
    assert "error: b is not ready after 0.1s: the model provider answered rate_limited (HTTP 429)" in err
    assert "hint: nothing: it is asked again at" in err


async def test_watch_prints_the_reason_without_a_terminal(capsys) -> None:
    log, shown = Log(ACCEPTED, STARTED, failed("rate_limited", status=429)), []

    def stop(status):
        shown.append(status)
        return Exit.OK if len(shown) == 3 else None

    await follow.follow(log.follow("b"), "b", as_json=False, stop=stop)
    out = capsys.readouterr().out
    assert out.count("waits     the model provider answered rate_limited (HTTP 429)") == 1
