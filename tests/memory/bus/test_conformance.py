"""The bus in memory keeps what the real one keeps."""

from tests.support.bus_suite import BusSuite


class TestMemoryBus(BusSuite):
    pass
