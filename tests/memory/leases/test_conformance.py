"""The in-memory leases pass the conformance suite."""

import asyncio

import pytest
from tests.support.lease_conformance import LeaseConformance, Pass

from nightshift.eventlog.leases.memory import MemoryLeases


class TestMemoryLeases(LeaseConformance):
    @pytest.fixture
    def leases(self) -> MemoryLeases:
        return MemoryLeases()

    @pytest.fixture
    def passes(self) -> Pass:
        return asyncio.sleep
