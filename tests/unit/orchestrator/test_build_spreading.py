"""How many builds a replica leaves to others that started later."""

import pytest

from nightshift.orchestrator.usecases.build_spreading import excess
from nightshift.servicekit.replicas import Replica, Work


@pytest.mark.parametrize(
    ("own", "others", "released"),
    [
        (50, [], 0),  # alone
        (
            50,
            [(0, 200)],
            21,
        ),  # one that just started: 29 stay, and the next comparison moves no more than that
        (29, [(21, 179)], 0),
        (3, [(0, 200)], 0),  # not worth a move
        (50, [(0, 5)], 5),  # no more than the other has room for
        (50, [(0, 0)], 0),  # the other is drained
        (0, [(50, 150)], 0),
        (90, [(0, 200), (0, 200)], 56),
    ],
)
def test_what_is_above_the_share_is_released(own: int, others: list[tuple[int, int]], released: int) -> None:
    replicas = [Replica("me", Work(own, 200 - own))]
    replicas += [Replica(f"other-{number}", Work(*work)) for number, work in enumerate(others)]
    assert excess("me", replicas) == released


def test_a_replica_that_is_not_listed_yet_releases_nothing() -> None:
    assert excess("me", [Replica("other", Work(0, 200))]) == 0
