"""The repository appends what was decided, once: nothing may follow from an append that may be another process's."""

from datetime import UTC, datetime

import pytest
from tests.unit.orchestrator.build_scenario import REQUEST

from nightshift.contracts.model import Owner
from nightshift.eventlog.errors import VersionConflict
from nightshift.eventlog.memory import MemoryEventLog, MemoryTables
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.orchestrator.adapters.event_log_repository import EventLogBuildRepository
from nightshift.orchestrator.domain.commands import AcceptBuild, Begin
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import INITIAL

NOW = datetime(2026, 11, 22, tzinfo=UTC)


async def test_a_step_that_is_in_the_log_is_not_taken_again():
    log = MemoryEventLog(MemoryTables(), owner=Owner.ORCHESTRATOR)
    first, second = (
        EventLogBuildRepository(log, MemoryObjectStore(), policy=Policy(), actor=name) for name in "12"
    )
    accepted = await first.commit("b1", INITIAL, AcceptBuild(REQUEST), NOW)
    await first.commit("b1", accepted, Begin(), NOW)
    with pytest.raises(VersionConflict):
        await second.commit("b1", accepted, Begin(), NOW)
    assert (await second.load("b1")).version == 3
