"""A redrive gives an equal tree, and names what depends on the time or on the run."""

from pathlib import Path

import pytest
from tests.support.gateway_world import World

from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.model import Event
from nightshift.eventlog.port import RecordedEvent
from nightshift.sandbox_gateway.adapters.redrive import Redrive, RedrivenCall, RedrivenTree
from nightshift.sandbox_gateway.domain.normalisation import first_difference, normalised
from nightshift.sandboxes.local.driver import LocalDriver, close_all
from nightshift.sandboxes.local.settings import LocalSettings


async def _redriven(
    world: World, folder: Path, events: list[RecordedEvent] | None = None
) -> list[RedrivenCall | RedrivenTree]:
    events = events or await _events(world)
    driver = LocalDriver(LocalSettings(folder / "fresh"))
    try:
        return [one async for one in Redrive(events, driver, world.store(), "local").run()]
    finally:
        close_all(folder / "fresh")


async def _turn(world: World, *calls: tuple[str, dict]) -> None:
    await world.run(*calls)
    await world.checkpoint()
    await world.save("checkpoint")


async def test_equal_calls_give_equal_results_and_an_equal_tree(world: World, tmp_path: Path):
    await _turn(
        world, ("write_file", {"file_path": "a.txt", "content": "one\n"}), ("bash", {"command": "echo hi"})
    )
    await _turn(world, ("bash", {"command": "ls -1; exit 3"}), ("read_file", {"file_path": "a.txt"}))
    found = await _redriven(world, tmp_path)
    assert [one.difference for one in found] == [None] * 6
    trees = [one for one in found if isinstance(one, RedrivenTree)]
    assert [(tree.turn, tree.equal_digest) for tree in trees] == [(1, True), (2, True)]


async def test_a_planted_timestamp_is_found_and_named(world: World, tmp_path: Path):
    await _turn(world, ("write_file", {"file_path": "a.txt", "content": "one\n"}))
    await _turn(world, ("bash", {"command": "mkdir -p build && date +%s%N > build/stamp.txt"}))
    await _turn(world, ("bash", {"command": "cat build/stamp.txt"}))
    found = await _redriven(world, tmp_path)
    named = [one for one in found if one.difference is not None]
    assert isinstance(named[0], RedrivenTree)
    assert (named[0].turn, named[0].difference) == (2, "build/stamp.txt: has another content")
    assert isinstance(named[1], RedrivenCall)
    assert named[1].difference is not None
    assert named[1].difference.startswith("line 1: recorded '1")


async def test_an_exit_code_that_changed_is_the_difference(world: World, tmp_path: Path):
    await world.run(("bash", {"command": "exit 4"}), ("bash", {"command": "true"}))
    events = await _events(world)
    lied = [
        one._replace(data=one.data.model_copy(update={"exit_code": 5})) if _exited(one.data) else one
        for one in events
    ]
    first, second = await _redriven(world, tmp_path, lied)
    assert first.difference == "exit_code: recorded 5, now 4"
    assert second.difference is None


async def test_a_call_whose_sandbox_was_lost_is_not_run_again(world: World, tmp_path: Path):
    await world.run(("bash", {"command": "exit 4"}))
    lost = [
        one._replace(data=one.data.model_copy(update={"error_kind": "sandbox_lost"}))
        if _exited(one.data)
        else one
        for one in await _events(world)
    ]
    [call] = await _redriven(world, tmp_path, lost)
    assert isinstance(call, RedrivenCall)
    assert (call.difference, call.skipped) == (None, "its recorded result is sandbox_lost")


async def _events(world: World) -> list[RecordedEvent]:
    return [event async for event in world.log.read_stream(world.stream)]


def _exited(fact: Event) -> bool:
    return isinstance(fact, ToolCallCompleted) and fact.exit_code == 4


@pytest.mark.parametrize(
    ("one", "two", "names"),
    [
        ("3 passed in 0.12s", "3 passed in 1.4s", {"duration"}),
        ("on http://127.0.0.1:41705/", "on http://127.0.0.1:9/x", set()),
        ("<A object at 0x7f996445ea00>", "<A object at 0x7f1c9b85ea00>", {"address"}),
        ("PID: 4312", "PID: 17", {"process id"}),
        ("in /tmp/pytest-a1b2c3d4", "in /tmp/pytest-z9y8x7w6", {"temporary path"}),
    ],
)
def test_what_varies_is_left_out_by_name(one: str, two: str, names: set[str]):
    left, right = normalised(one), normalised(two)
    assert (left[0] == right[0]) is bool(names)
    if names:
        assert left[1] == right[1] == names


@pytest.mark.parametrize("text", ["2026-11-27 03:00:01", "at 1764212401", "v1.2.3", "line 17", "12 files"])
def test_a_time_or_a_count_is_never_left_out(text: str):
    assert normalised(text) == (text, frozenset())


def test_the_first_line_that_differs_is_shown_with_both_sides():
    assert first_difference("a\nb\nc", "a\nB\nc") == "line 2: recorded 'b', now 'B'"
    assert first_difference("a", "a\nb") == "line 2: recorded '(no such line)', now 'b'"
    assert first_difference("a", "a") is None
