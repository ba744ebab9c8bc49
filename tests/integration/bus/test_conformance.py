"""The bus on a real broker."""

import pytest
from tests.support.bus_suite import BusSuite


@pytest.mark.kafka
class TestKafkaBus(BusSuite):
    pass
