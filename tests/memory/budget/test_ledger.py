"""The ledger in memory behaves as the port Ledger demands, also when transactions overlap."""

import asyncio
from datetime import UTC, datetime

import pytest
from tests.support.ledger_conformance import LedgerConformance
from tests.support.memory_ledger import LedgerTables, MemoryLedger

from nightshift.contracts.model import Owner
from nightshift.eventlog.memory import MemoryEventLog, MemoryTables


async def _yield() -> None:
    await asyncio.sleep(0)


class TestMemoryLedger(LedgerConformance):
    @pytest.fixture
    def tables(self) -> MemoryTables:
        return MemoryTables()

    @pytest.fixture
    def log(self, tables: MemoryTables) -> MemoryEventLog:
        return MemoryEventLog(tables, owner=Owner.BUDGET)

    @pytest.fixture
    def builds(self, tables: MemoryTables) -> MemoryEventLog:
        return MemoryEventLog(tables, owner=Owner.ORCHESTRATOR)

    @pytest.fixture
    def ledger(self, log: MemoryEventLog) -> MemoryLedger:
        return MemoryLedger(LedgerTables(), log, now=lambda: datetime.now(UTC), between=_yield)
