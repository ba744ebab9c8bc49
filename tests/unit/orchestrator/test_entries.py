"""The sequence that shares its items, and the copy of frozen data that the folds make."""

import pytest

from nightshift.orchestrator.domain.entries import Entries
from nightshift.orchestrator.domain.replace import replace
from nightshift.orchestrator.domain.state import INITIAL, Conversation, Grant, OpenCall


def test_two_branches_of_a_sequence_do_not_see_each_other():
    base = Entries[int]().plus(1, 2)
    one, two = base.plus(3), base.plus(4, 5)
    three = one.plus(6)
    assert (list(base), list(one), list(two), list(three)) == ([1, 2], [1, 2, 3], [1, 2, 4, 5], [1, 2, 3, 6])
    assert base == (1, 2)
    assert base != one
    assert (three[-1], three[1:], three[5:], len(two)) == (6, (2, 3, 6), (), 4)
    with pytest.raises(IndexError):
        base[2]  # the shared list has more items than this sequence shows


def test_adding_to_the_longest_sequence_copies_nothing():
    longest = Entries(range(1_000))
    assert longest.plus(1)._items is longest._items
    assert Entries[int]().plus() == ()


def test_the_empty_conversation_of_a_new_build_is_never_shared():
    first = INITIAL.conversation.entries.plus("of one build")
    assert list(INITIAL.conversation.entries.plus("of another")) == ["of another"]
    assert list(first) == ["of one build"]


def test_a_copy_shares_what_does_not_change():
    before = Conversation(turn=1, waiting=("a",))
    after = replace(before, turn=2)
    assert (before.turn, after.turn, type(after)) == (1, 2, Conversation)
    assert after.waiting is before.waiting
    with pytest.raises(AttributeError):
        replace(OpenCall(1, 1, "claude-sonnet-5", None, 0, None), turn=2)  # it has slots
    assert Grant.__dataclass_params__.frozen
