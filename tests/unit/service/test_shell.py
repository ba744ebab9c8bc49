"""The service shell, in the test's process."""

import gc
from collections.abc import Iterator

import pytest

from nightshift.servicekit.service import Service
from nightshift.servicekit.settings import ProcessSettings


@pytest.fixture
def thawed() -> Iterator[None]:
    """Unfreeze the collector's objects before and after the test."""
    gc.unfreeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("thawed")
async def test_objects_of_the_start_are_frozen_for_the_collector():
    made = []

    async def start(running: Service[ProcessSettings]) -> None:
        made.append({"client": []})
        running.stopping.set()

    assert await Service("one", ProcessSettings(health_port=0)).run(start) == 0
    assert gc.get_freeze_count() > 0
    assert not any(each is made[0] for each in gc.get_objects())
