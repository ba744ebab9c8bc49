"""The in-memory object store passes the conformance suite."""

import pytest
from tests.support.object_conformance import ObjectStoreConformance

from nightshift.eventlog.objects.memory import MemoryObjectStore


class TestMemoryObjectStore(ObjectStoreConformance):
    @pytest.fixture
    def store(self) -> MemoryObjectStore:
        return MemoryObjectStore()

    @pytest.fixture
    def prefix(self) -> str:
        return "t"
