"""The pace of a replay in the terminal, and its keys."""

from collections.abc import Iterable

from tests.unit.cli.events import ACCEPTED, recorded

from nightshift.cli.playback import LONGEST_PAUSE_S, Playback, play
from nightshift.contracts.events.build import BuildPhaseChanged, Phase

EVENTS = recorded([ACCEPTED, *[BuildPhaseChanged(from_phase=Phase.CODE, to_phase=Phase.CODE)] * 4])


class Keyboard:
    """Presses these keys, one at each wait; "" is no key until the wait is over. Notes the waits."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self.keys = list(keys)
        self.waits: list[float | None] = []
        self.now = 0.0

    def read(self, timeout_s: float | None) -> str:
        self.waits.append(timeout_s)
        key = self.keys.pop(0) if self.keys else ""
        if not key:
            assert timeout_s is not None, "waits for ever"
            self.now += timeout_s
        return key

    def clock(self) -> float:
        return self.now


def _wait(playback: Playback, seconds: float, *keys: str) -> list[float | None]:
    keyboard = Keyboard(keys)
    playback.wait(seconds, keyboard.read, keyboard.clock)
    assert keyboard.keys == []
    return keyboard.waits


def test_a_pause_is_the_recorded_one_by_the_speed():
    assert _wait(Playback(speed=4), 2.0) == [0.5]
    assert _wait(Playback(speed=4), 8 * 3600) == [LONGEST_PAUSE_S]
    assert _wait(Playback(speed=4), -1.0) == [0.0]


def test_space_pauses_until_it_is_pressed_again():
    playback = Playback(speed=1)
    assert _wait(playback, 1.0, " ", " ")[:2] == [1.0, None]
    assert not playback.step


def test_step_waits_for_a_key_at_each_event():
    assert _wait(Playback(speed=1, step=True), 1.0, "x", "n") == [None, None]
    assert _wait(Playback(speed=1), 1.0, "n") == [1.0]


def test_a_key_plays_up_to_the_next_turn():
    playback = Playback(speed=1)
    _wait(playback, 1.0, "t")
    assert _wait(playback, 1.0) == []


def test_plus_and_minus_change_the_speed_within_bounds():
    playback = Playback(speed=1)
    for _ in range(40):
        playback.press("+")
    assert playback.speed == 4096
    for _ in range(40):
        playback.press("-")
    assert playback.speed == 0.25


def test_q_ends_the_replay(capsys):
    play("b", EVENTS, Playback(speed=1, step=True), Keyboard(["n", "n", "q"]).read)
    assert capsys.readouterr().out.count("code → code") == 1


def test_a_replay_into_a_pipe_waits_for_nobody(capsys):
    play("b", EVENTS, None, Keyboard().read)
    assert capsys.readouterr().out.endswith("running: 0 turns, $0.0000, 5 events\n")
