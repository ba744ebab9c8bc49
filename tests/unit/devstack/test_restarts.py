"""The record of exits that `ps` and `doctor` read."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nightshift.devstack.stack.home import hold
from nightshift.devstack.stack.restarts import (
    Exit,
    RestartRecord,
    RestartReport,
    last_words,
    read_restarts,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def report(*ago_s: float, code: int | None = 1, words: str = "") -> RestartReport:
    return RestartReport(tuple(Exit(NOW - timedelta(seconds=ago), code, words) for ago in ago_s), NOW)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (report(3), "once in 3 s, last exit code 1"),
        (report(40, 3), "twice in 40 s, last exit code 1"),
        (report(120, 90, 60, 50, 40, 30, 1, words="no disk"), "7 times in 2 min, last exit code 1: no disk"),
        (report(120, 60, 1, code=-9), "3 times in 2 min, last ended by signal 9"),
        (report(5, code=None, words="port taken"), "once in 5 s, last start failed: port taken"),
        (report(*[9] * 50), "50 times or more in 9 s, last exit code 1"),
    ],
)
def test_a_report_says_how_often_and_with_what(given: RestartReport, said: str) -> None:
    assert given.summary() == said


def test_the_third_exit_in_ten_minutes_keeps_restarting() -> None:
    assert not report(500, 1).keeps_restarting
    assert report(500, 100, 1).keeps_restarting


def test_exits_are_read_by_name_for_ten_minutes(tmp_path: Path) -> None:
    with hold(tmp_path):
        record = RestartRecord(tmp_path)
        record.note("relay", Exit(NOW - timedelta(minutes=11), 1, "old"))
        record.note("budget", Exit(NOW - timedelta(minutes=11), 1, "old"))
        record.note("budget", Exit(NOW, 4, "new"))
        found = read_restarts(tmp_path, NOW)
        assert {name: one.exits for name, one in found.items()} == {"budget": (Exit(NOW, 4, "new"),)}
    assert read_restarts(tmp_path, NOW) == {}, "no stack runs"


def test_a_new_stack_starts_without_the_exits_of_the_last(tmp_path: Path) -> None:
    with hold(tmp_path):
        RestartRecord(tmp_path).note("relay", Exit(NOW, 1, ""))
        RestartRecord(tmp_path)
        assert read_restarts(tmp_path, NOW) == {}


def test_a_disk_that_is_full_does_not_end_the_supervision(tmp_path: Path) -> None:
    RestartRecord(tmp_path / "gone").note("relay", Exit(NOW, 1, ""))


def test_last_words_are_one_line_without_passwords() -> None:
    assert (
        last_words("one\ncannot reach postgresql://u:hunter2@h/x\n\n")
        == "cannot reach postgresql://u:***@h/x"
    )
    assert len(last_words("x" * 10_000)) == 300
    assert last_words("") == ""
