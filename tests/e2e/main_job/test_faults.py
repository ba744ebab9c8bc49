"""The main job while one thing around it is missing, slow or wrong."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby

import psutil
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from tests.support.main_job import (
    SERVICES,
    MainJob,
    assert_in_order,
    assert_ready,
    ended,
    has,
    letters,
    of,
    status,
    stopped,
    told,
)
from tests.support.processes import nightshift
from tests.support.s3_switch import Switch
from tests.support.waiting import eventually

from nightshift.cli.main import run
from nightshift.cli.producer import checked, send
from nightshift.contracts.events.account import AccountToppedUp
from nightshift.contracts.events.budget import BudgetSettled, WakeRequested
from nightshift.contracts.events.build import (
    AgentSteered,
    BuildCancelled,
    BuildReady,
    BuildWaiting,
    BuildWoken,
    ModelCallFailed,
    ModelCallStarted,
    SleepRequested,
    ToolCallRequested,
)
from nightshift.contracts.events.requests import BuildCancelRequested, BuildPauseRequested
from nightshift.contracts.events.sandbox import (
    SandboxClosed,
    SandboxLost,
    SandboxOpened,
    SandboxPaused,
    SandboxRestored,
    ToolCallCompleted,
)
from nightshift.contracts.events.snapshot import SnapshotFailed, SnapshotSaved
from nightshift.contracts.model import Event
from nightshift.eventlog.port import RecordedEvent

pytestmark = [pytest.mark.timeout(120), pytest.mark.fault]

#: Seconds in which a cancel ends the model call and the running tool.
_PROMPT_S = 2.0


async def test_without_the_gateway_a_build_waits_and_with_it_it_finishes(job: MainJob) -> None:
    gateway = job.process("sandbox-gateway")
    assert gateway is not None
    with stopped(gateway):
        build_id = await job.ask("plain steps, gateway away")
        other = await job.ask("a refusal")
        asked = await job.until(build_id, has(ToolCallRequested), what="asked for a tool")
        await job.until(other, ended, what="ended, for it needs no sandbox")
        assert await job.events(build_id) == asked
    events = await job.until(build_id, ended, what="ended")
    assert_ready(job, build_id, events, steps=8)


async def test_every_service_has_groups_of_its_own(job: MainJob) -> None:
    expected = set(SERVICES) - {"relay"}
    build_id = await job.ask("plain steps, groups")
    await job.until(build_id, ended, what="ended")

    async def each_has_one() -> bool:
        """Waits until the broker lists the groups: the embedded one does so after their first commit."""
        groups = {name for name, _ in await admin.list_consumer_groups()}
        owners = {group.split(".")[1] for group in groups if group.startswith("nightshift.")}
        assert owners == expected
        return True

    admin = AIOKafkaAdminClient(bootstrap_servers=job.told["kafka"]["bootstrap"])
    await admin.start()
    try:
        await eventually(each_has_one)
    finally:
        await admin.close()


async def test_a_store_that_always_fails_never_fails_a_build(job: MainJob, switch: Switch) -> None:
    await job.open_account("unlucky", day_microusd=480_000)
    build_id = await job.ask("one night", account="unlucky", project_id="unlucky-project")
    await job.until(build_id, has(SandboxPaused), 60, what="paused, for its snapshot failed")
    topped = {"account_id": "unlucky", "amount_microusd": 5_000_000}
    await send(job.home, checked(AccountToppedUp, topped))
    events = await job.until(build_id, _last_snapshot_failed, 60, what="its last snapshot failed")
    assert_ready(job, build_id, events, steps=3)
    assert switch.refused > 0
    assert of(events, SnapshotSaved) == []
    assert not any(failed.final for failed in of(events, SnapshotFailed) if failed.reason == "completion")
    assert {"pre_sleep", "completion"} <= {failed.reason for failed in of(events, SnapshotFailed)}
    # The sandbox is the first one, kept: nothing was closed, nothing opened again, nothing restored.
    assert [len(of(events, kind)) for kind in (SandboxOpened, SandboxClosed, SandboxRestored)] == [1, 0, 0]
    [asleep, paused, woken] = [
        event for event in events if isinstance(event.data, SleepRequested | SandboxPaused | BuildWoken)
    ]
    assert asleep.version < paused.version < woken.version
    watched = nightshift("watch", build_id, "--home", str(job.home))
    assert watched.returncode == 0
    assert "snapshot (pre_sleep) failed; given up" in watched.stdout
    assert "paused and kept" in watched.stdout
    broken, switch.broken = switch.broken, "/no-such-project"
    try:
        events = await job.until(
            build_id, has(SnapshotSaved), 60, what="its files saved once the store works"
        )
    finally:
        switch.broken = broken
    assert [saved.reason for saved in of(events, SnapshotSaved)] == ["completion"]


async def test_a_build_sleeps_and_wakes_four_times_and_is_ready(job: MainJob) -> None:
    await job.open_account("nights", day_microusd=480_000)
    build_id = await job.ask("four nights", account="nights")
    for night in range(1, 5):
        asleep = has(SandboxClosed, times=night)
        await job.until(build_id, asleep, 60, what=f"its sandbox closed in night {night}")
        # With what is left of the day this pays for one step, not for two.
        topped = {"account_id": "nights", "amount_microusd": 240_000}
        await send(job.home, checked(AccountToppedUp, topped))
    events = await job.until(build_id, ended, 60, what="ended")
    assert_ready(job, build_id, events, steps=5)
    order = (SleepRequested, SnapshotSaved, SandboxClosed, WakeRequested, BuildWoken, SandboxRestored)
    nights = [
        type(event.data)
        for event in events
        if isinstance(event.data, order)
        and not (isinstance(event.data, SnapshotSaved) and event.data.reason != "pre_sleep")
    ]
    assert nights == list(order) * 4, told(events)


def _last_snapshot_failed(events: Sequence[RecordedEvent]) -> bool:
    return any(failed.reason == "completion" for failed in of(events, SnapshotFailed))


async def test_a_done_build_with_a_twentieth_of_its_money_is_ready(job: MainJob) -> None:
    await job.open_account("nearly", day_microusd=1_100_000)
    build_id = await job.ask("almost all the money", account="nearly")
    events = await job.until(build_id, ended, what="ended")
    ready = assert_ready(job, build_id, events, steps=3)
    assert ready.cost_microusd / 1_100_000 == pytest.approx(0.95, abs=0.001)
    assert of(events, SleepRequested) == []


async def test_the_providers_bad_day_costs_what_it_costs_and_no_build(job: MainJob) -> None:
    build_id = await job.ask("a bad day of the provider")
    events = await job.until(build_id, ended, what="ended")
    assert_ready(job, build_id, events, steps=3)
    failed = of(events, ModelCallFailed)
    # The script counts by the conversation, and what it cost is told there: a failure may come once more.
    assert [kind for kind, _ in groupby(one.kind for one in failed)] == [
        "overloaded",
        "stream_cut",
        "malformed",
    ]
    assert sum(one.kind == "overloaded" for one in failed) >= 2
    assert all((one.cost_microusd > 0) is (one.kind != "overloaded") for one in failed)


async def test_builds_go_on_after_a_restart_of_everything(job: MainJob) -> None:
    await job.open_account("sleeper", day_microusd=480_000)
    thinking = await job.ask("a slow answer")
    asleep = await job.ask("one night", account="sleeper")
    await job.until(asleep, has(SandboxClosed), what="asleep")
    await job.until(thinking, has(ModelCallStarted), what="thinking")
    sleeps = await job.until(asleep, has(BudgetSettled, times=1), what="its money is given back")
    # Asked for last: they must be at work when the stack goes.
    working = [await job.ask("plain steps, around a restart") for _ in range(2)]
    for build_id in working:
        await job.until(build_id, has(ToolCallCompleted), what="at work")
    await asyncio.to_thread(job.restart)
    # A call that the restart cut is paid for, and made again.
    again = await job.until(thinking, has(ModelCallStarted, times=2), 45, what="thinking again")
    assert [failed.kind for failed in of(again, ModelCallFailed)] == ["abandoned"]
    assert_in_order(again)
    for build_id in working:
        events = await job.until(build_id, ended, 45, what="ended")
        _assert_ready_but_for_what_was_lost(job, build_id, events)
    # Who sleeps until midnight still does, and wakes for money.
    assert await job.events(asleep) == sleeps
    topped = {"account_id": "sleeper", "amount_microusd": 5_000_000}
    await send(job.home, checked(AccountToppedUp, topped))
    events = await job.until(asleep, ended, what="ended")
    assert_ready(job, asleep, events, steps=3)
    await send(job.home, checked(BuildCancelRequested, {"build_id": thinking}))


def _assert_ready_but_for_what_was_lost(job: MainJob, build_id: str, events: Sequence[RecordedEvent]) -> None:
    """A local sandbox ends with the stack: unsaved files are lost, the agent knows, and no call ran twice."""
    assert status(build_id, events).state == "ready"
    assert_in_order(events)
    lines = job.steps(build_id, events)
    assert lines == sorted(set(lines))
    missing = {f"step {number}" for number in range(8)} - set(lines)
    assert missing <= _lost_steps(events), told(events)
    if missing:
        assert "sandbox_restored" in {steered.reason for steered in of(events, AgentSteered)}


def _lost_steps(events: Sequence[RecordedEvent]) -> set[str]:
    """The calls that failed with their sandbox, and those after the last snapshot before its loss."""
    lost = [event.version for event in events if isinstance(event.data, SandboxLost)]
    saved = [
        (event.version, event.data.at_version) for event in events if isinstance(event.data, SnapshotSaved)
    ]
    kept = {gone: max((at for version, at in saved if version < gone), default=0) for gone in lost}
    return {
        f"step {int(event.data.call_id.split('/')[1]) - 1}"
        for event in events
        if isinstance(event.data, ToolCallCompleted)
        and (event.data.is_error or any(kept[gone] < event.version < gone for gone in lost))
    }


async def test_a_cancelled_model_call_ends_in_seconds(job: MainJob) -> None:
    build_id = await job.ask("a slow answer")
    await job.until(build_id, has(ModelCallStarted), what="thinking")
    job.command("wait", build_id, "--timeout", "0.5s", code=6)
    await _cancel(job, build_id)
    events = await job.events(build_id)
    assert_in_order(events)
    [failed] = of(events, ModelCallFailed)
    assert failed.kind == "cancelled"


async def test_a_cancelled_command_ends_in_seconds_and_its_sandbox_with_it(job: MainJob) -> None:
    build_id = await job.ask("a long command", approvals={"ask": ["bash(sleep *)"]})
    await job.until(build_id, has(BuildWaiting), what="waits for its approval")
    [[question]] = await asyncio.to_thread(job.command, "questions", build_id)
    assert question["kind"] == "approval"
    assert "sleep 613" in question["input"]["command"]
    assert _sleepers() == []
    await asyncio.to_thread(job.command, "approve", build_id, "Only this once.")
    await job.until(build_id, has(ToolCallRequested), what="asked for its command")
    await eventually(_sleepers, what="the command runs")
    asked_at = datetime.now(UTC)
    await send(job.home, checked(BuildCancelRequested, {"build_id": build_id}))
    await eventually(lambda: not _sleepers(), 10, what="the command is gone", promised=True)
    assert (datetime.now(UTC) - asked_at).total_seconds() < _PROMPT_S
    closed = await job.until(build_id, has(SandboxClosed), what="closed its sandbox")
    assert_in_order(closed)
    [result] = of(closed, ToolCallCompleted)
    assert result.error_kind == "cancelled"
    assert _seconds(closed, ToolCallCompleted, since=asked_at) < _PROMPT_S


async def test_a_build_that_rests_is_cancelled_in_seconds(job: MainJob) -> None:
    """While it waits for an answer, for a person's approval and for a customer's tool, while paused, and asleep."""
    await job.open_account("poorer", day_microusd=480_000)
    pushes = {"approvals": {"ask": ["bash"]}}
    stock = {"name": "stock_of", "description": "Counts.", "input_schema": {"type": "object"}}
    waits = [
        await job.ask("an open question"),
        await job.ask("a long command", **pushes),
        await job.ask("a stocked shelf", tools=[stock]),
        await job.ask("a slow answer"),
        await job.ask("one night", account="poorer"),
    ]
    await job.until(waits[3], has(ModelCallStarted), what="thinks")
    await send(job.home, checked(BuildPauseRequested, {"build_id": waits[3]}))
    for build_id in waits[:4]:
        await job.until(build_id, has(BuildWaiting), what="waits")
    await job.until(waits[3], has(ModelCallFailed), what="is paused")
    await job.until(waits[4], has(SleepRequested), what="sleeps")
    for build_id in waits:
        asked_at = datetime.now(UTC)
        await send(job.home, checked(BuildCancelRequested, {"build_id": build_id}))
        events = await job.until(build_id, has(BuildCancelled), 5, what="cancelled", promised=True)
        assert _seconds(events, BuildCancelled, since=asked_at) < _PROMPT_S
        assert status(build_id, events).questions == {}


def _seconds(events: Sequence[RecordedEvent], kind: type[Event], *, since: datetime) -> float:
    """The seconds from a moment to the first event of a type."""
    first = next(event for event in events if isinstance(event.data, kind))
    return (first.recorded_at - since).total_seconds()


async def _cancel(job: MainJob, build_id: str) -> None:
    """Cancels with the command while another one watches, which then exits with the code of a cancelled build."""
    watch = asyncio.create_task(asyncio.to_thread(job.command, "watch", build_id, code=8))
    await asyncio.to_thread(job.command, "cancel", build_id, "--reason", "changed my mind")
    asked_at = datetime.now(UTC)
    events = await job.until(build_id, has(BuildCancelled), 5, what="cancelled", promised=True)
    assert _seconds(events, BuildCancelled, since=asked_at) < _PROMPT_S
    *_, last = await watch
    assert last["status"] == "cancelled"
    job.command("cancel", build_id, code=1)  # it has ended


def _sleepers() -> list[psutil.Process]:
    """The processes of the long command."""
    return [
        one for one in psutil.process_iter(["name", "cmdline"]) if one.info["cmdline"] == ["sleep", "613"]
    ]


async def test_exit_codes_tell_how_a_build_stands(job: MainJob) -> None:
    await job.open_account("poor", day_microusd=480_000)
    sleeper = await job.ask("one night", account="poor")
    refused = await job.ask("a refusal")
    await job.until(sleeper, has(SleepRequested), what="asleep")
    asked = {
        ("watch", sleeper, "--fail-on-sleep"): 7,
        ("wait", sleeper, "--fail-on-sleep"): 7,
        ("wait", sleeper, "--for", "sleeping"): 0,
        ("watch", refused): 3,
        ("wait", refused): 3,
        ("log", "nobody-knows-it"): 5,
        ("cancel", "nobody-knows-it"): 5,
        ("cancel", refused): 1,
        ("cancel", sleeper): 0,
    }
    # In a thread, because a command makes an event loop of its own.
    home = ("--home", str(job.home))
    assert {words: await asyncio.to_thread(run, (*words, *home)) for words in asked} == asked
    events = await job.until(sleeper, has(BuildCancelled), 10, what="cancelled in its sleep")
    assert_in_order(events)
    assert await asyncio.to_thread(run, ("watch", sleeper, *home)) == 8


async def test_the_same_request_again_changes_nothing(job: MainJob) -> None:
    build_id = await job.ask("plain steps, asked for often")
    for _ in range(3):
        await job.ask("plain steps, asked for often", build_id=build_id)
    events = await job.until(build_id, _at_rest, what="at rest")
    assert_ready(job, build_id, events, steps=8)
    await job.ask("plain steps, asked for often", build_id=build_id)
    # It has the same key, so it is handled after the one that is the same.
    await job.ask("plain steps, but something else", build_id=build_id)
    [letter] = await letters(job, build_id)
    assert "other content" in str(letter)
    assert await job.events(build_id) == events


def _at_rest(events: Sequence[RecordedEvent]) -> bool:
    """Waits until the build is ready, its last snapshot saved and its grants settled."""
    saved = any(one.reason == "completion" for one in of(events, SnapshotSaved))
    return has(BuildReady)(events) and has(BudgetSettled)(events) and saved
