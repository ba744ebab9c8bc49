"""The in-memory log passes the conformance suites."""

import pytest
from tests.support.log_conformance import LogConformance, Writer
from tests.support.pending_conformance import LeavePending, PendingConformance

from nightshift.contracts.model import Owner
from nightshift.eventlog.memory import MemoryEventLog
from nightshift.eventlog.port import PendingItem


class TestMemoryEventLog(LogConformance, PendingConformance):
    @pytest.fixture
    def log(self) -> MemoryEventLog:
        return MemoryEventLog(actor="tester")

    @pytest.fixture
    def writer(self, log: MemoryEventLog) -> Writer:
        def make(owner: Owner) -> MemoryEventLog:
            return MemoryEventLog(log.tables, actor=owner.value, owner=owner)

        return make

    @pytest.fixture
    def leave_pending(self, log: MemoryEventLog) -> LeavePending:
        async def leave(item: PendingItem) -> None:
            log.tables.pending[item.kind, item.key, item.stream_id] = item

        return leave
