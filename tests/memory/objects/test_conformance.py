"""The object store in memory keeps the promises of the port."""

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
