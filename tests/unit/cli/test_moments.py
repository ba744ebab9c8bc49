"""Which version of a build `--at` names."""

from datetime import timedelta
from uuid import UUID

import pytest
from tests.unit.cli.events import ACCEPTED, START, recorded

from nightshift.cli.errors import WrongUsage
from nightshift.cli.moments import turn_at, version_at
from nightshift.contracts.events.build import CheckpointSaved, ModelCallStarted
from nightshift.contracts.events.snapshot import SnapshotFailed
from nightshift.eventlog.errors import NotFound


def _started(turn: int) -> ModelCallStarted:
    return ModelCallStarted(turn=turn, attempt=1, model="m", lease_id=UUID(int=1), reserve_microusd=1)


_LATE = SnapshotFailed(reason="checkpoint", at_version=3, detail="late", attempt=1, final=False)
EVENTS = recorded([ACCEPTED, _started(1), CheckpointSaved(turn=1), _started(2), _LATE])


@pytest.mark.parametrize(
    ("at", "version"),
    [
        ("turn:1", 3),  # its checkpoint
        ("turn:0", 1),
        ("turn:2", 5),  # the last turn has none yet
        ("4", 4),
        ((START + timedelta(seconds=2.5)).isoformat(), 3),
        ("2999-01-01", 5),
    ],
)
def test_a_moment_names_one_version(at: str, version: int):
    assert version_at(EVENTS, at) == version


@pytest.mark.parametrize("at", ["0", "6", "turn:3", "2001-01-01T00:00:00+00:00"])
def test_a_moment_that_the_build_does_not_have_is_not_found(at: str):
    with pytest.raises(NotFound):
        version_at(EVENTS, at)


@pytest.mark.parametrize("at", ["", "turn:", "turn:x", "-1", "noon", "0001-01-01T00:00:00+23:59"])
def test_what_is_no_moment_is_wrong_usage(at: str):
    with pytest.raises(WrongUsage):
        version_at(EVENTS, at)


def test_each_version_belongs_to_a_turn():
    assert [turn_at(EVENTS, version) for version in (1, 2, 3, 4, 5)] == [0, 1, 1, 2, 2]
