"""What `nightshift wait` waits for: a phase that was gone through is reached, a sleep that is over is not."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import pytest

from nightshift.cli.commands.wait import condition, waited
from nightshift.cli.exits import Exit
from nightshift.contracts.events.build import (
    BuildCancelled,
    BuildPhaseChanged,
    BuildReady,
    BuildWoken,
    Phase,
    SleepRequested,
)
from nightshift.contracts.model import Event
from nightshift.eventlog.port import RecordedEvent

ASLEEP = SleepRequested(account_id="ada", reason="budget", wake_at=None, turn=1)
WOKEN = BuildWoken(reason="refresh")
CODE = BuildPhaseChanged(from_phase=Phase.SCAFFOLD, to_phase=Phase.CODE)
DEPS = BuildPhaseChanged(from_phase=Phase.CODE, to_phase=Phase.DEPS)
READY = BuildReady(
    project_id="p",
    sandbox_id="s",
    preview_url="http://p",
    build_version=1,
    cost_microusd=5,
    turns=3,
    tool_calls=2,
)


async def batches(*given: tuple[Event, ...]) -> AsyncIterator[list[RecordedEvent]]:
    version = 0
    for facts in given:
        batch = []
        for fact in facts:
            version += 1
            at = datetime(2026, 3, 1, tzinfo=UTC)
            batch.append(
                RecordedEvent(UUID(int=version), "build-b", version, fact, "b", UUID(int=9), "t", None, at)
            )
        yield batch


async def wait_for(text: str, *given: tuple[Event, ...]) -> Exit | None:
    code = None
    async for _, code in waited(batches(*given), "b", condition(text)):
        if code is not None:
            return code
    return code


@pytest.mark.parametrize(
    ("text", "given", "code"),
    [
        ("sleeping", [(CODE, ASLEEP)], Exit.OK),
        ("sleeping", [(CODE, ASLEEP, WOKEN)], None),
        ("sleeping", [(CODE, ASLEEP, WOKEN, READY)], Exit.ERROR),
        ("sleeping", [(CODE,), (ASLEEP, WOKEN)], Exit.OK),
        ("sleeping", [(), (CODE,), (), (ASLEEP,)], Exit.OK),
        ("phase=code", [(CODE, DEPS)], Exit.OK),
        ("phase=deps", [(CODE,), (DEPS, READY)], Exit.OK),
        ("phase=checks", [(CODE, DEPS)], None),
        ("ready", [(CODE,), (READY,)], Exit.OK),
        ("end", [(BuildCancelled(reason="no", cost_microusd=0, turns=0),)], Exit.OK),
        ("ready", [(BuildCancelled(reason="no", cost_microusd=0, turns=0),)], Exit.CANCELLED),
    ],
)
async def test_a_wait_ends_with_the_exit_code_of_its_condition(
    text: str, given: list[tuple[Event, ...]], code: Exit | None
) -> None:
    assert await wait_for(text, *given) is code
