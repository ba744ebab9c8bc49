"""Events as handlers receive them."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from tests.support.exported_spans import exported

from nightshift.eventlog.port import RecordedEvent

__all__ = ["exported"]


@pytest.fixture
def recorded_event():
    """Return a function that makes an event of build b1 with this data and trace."""

    def make(data, traceparent, *, version=1):
        when = datetime(2026, 11, 22, 3, tzinfo=UTC)
        return RecordedEvent(
            UUID(int=version), "build-b1", version, data, "b1", UUID(int=9), "test", traceparent, when
        )

    return make
