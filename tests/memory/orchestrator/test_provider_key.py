"""The fake of the port ProviderKey behaves as the port demands."""

from datetime import UTC, datetime
from functools import partial

import pytest
from tests.support.memory_provider_key import KeyTable, MemoryProviderKey
from tests.support.provider_key_conformance import ProviderKeyConformance

_NOW = partial(datetime.now, UTC)


class TestMemoryProviderKey(ProviderKeyConformance):
    @pytest.fixture
    def table(self) -> KeyTable:
        return KeyTable()

    @pytest.fixture
    def key(self, table: KeyTable) -> MemoryProviderKey:
        return MemoryProviderKey(table, "k", now=_NOW, first_probe_s=1_800)

    @pytest.fixture
    def other(self, table: KeyTable) -> MemoryProviderKey:
        return MemoryProviderKey(table, "k", now=_NOW, first_probe_s=1_800)

    @pytest.fixture
    def foreign(self, table: KeyTable) -> MemoryProviderKey:
        return MemoryProviderKey(table, "f", now=_NOW)

    @pytest.fixture
    def impatient(self, table: KeyTable) -> MemoryProviderKey:
        return MemoryProviderKey(table, "k", now=_NOW, first_probe_s=0.0)
