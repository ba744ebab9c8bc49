"""The table of phases: legal and illegal moves, and the diagram that is generated from it."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from nightshift.contracts.events.build import BuildPhaseChanged, Phase
from nightshift.orchestrator.domain.evolve import evolve_all
from nightshift.orchestrator.domain.phases import ENDS, MOVES, IllegalMove, mermaid, move
from nightshift.orchestrator.domain.state import INITIAL


def test_every_phase_is_in_the_table_and_an_end_is_final():
    assert set(MOVES) == set(Phase)
    assert all(not MOVES[end] for end in ENDS)


def test_the_whole_way_is_legal():
    way = [Phase.QUEUED, Phase.STARTING, Phase.SCAFFOLD, Phase.CODE, Phase.DEPS, Phase.CHECKS, Phase.READY]
    for here, there in pairwise(way):
        assert move(here, there) is there


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in ENDS])
def test_a_build_that_has_not_ended_may_fail_or_be_cancelled(phase):
    assert {Phase.FAILED, Phase.CANCELLED} <= MOVES[phase]


@pytest.mark.parametrize("here", list(Phase))
@pytest.mark.parametrize("there", list(Phase))
def test_only_the_checks_lead_to_ready_and_back_to_code(here, there):
    order = list(Phase)
    if there is Phase.READY:
        assert (there in MOVES[here]) == (here is Phase.CHECKS)
    if there not in ENDS and order.index(there) <= order.index(here):
        assert (there in MOVES[here]) == ((here, there) == (Phase.CHECKS, Phase.CODE))


def test_an_illegal_move_raises_and_leaves_the_state_alone():
    before = INITIAL
    with pytest.raises(IllegalMove, match="queued to ready"):
        evolve_all(before, (BuildPhaseChanged(from_phase=Phase.QUEUED, to_phase=Phase.READY),))
    assert before.phase is Phase.QUEUED


def test_the_diagram_shows_each_move_of_the_table():
    drawn = set(re.findall(r"^    (\w+) --> (\w+)$", mermaid(), flags=re.MULTILINE))
    legal = {(here, there) for here, to in MOVES.items() for there in to}
    assert {pair for pair in drawn if pair[0] != "any"} == {
        (here.value, there.value) for here, there in legal if there not in {Phase.FAILED, Phase.CANCELLED}
    }
    assert {("any", "failed"), ("any", "cancelled")} <= drawn


def test_the_readme_shows_the_diagram_of_the_table():
    readme = Path(__file__).parents[3] / "services" / "orchestrator" / "README.md"
    assert mermaid() in readme.read_text()
