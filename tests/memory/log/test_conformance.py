"""The in-memory log keeps the promises of the port."""

import pytest
from tests.support.log_conformance import LogConformance, Writer

from nightshift.contracts.model import Owner
from nightshift.eventlog.memory import MemoryEventLog


class TestMemoryEventLog(LogConformance):
    @pytest.fixture
    def log(self) -> MemoryEventLog:
        return MemoryEventLog(actor="tester")

    @pytest.fixture
    def writer(self, log: MemoryEventLog) -> Writer:
        def make(owner: Owner) -> MemoryEventLog:
            return MemoryEventLog(log.tables, actor=owner.value, owner=owner)

        return make
