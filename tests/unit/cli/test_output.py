"""Data on stdout, plain and safe; the rest on stderr."""

import json
from datetime import UTC, datetime

import pytest
from rich.cells import cell_len

from nightshift.cli import output


@pytest.mark.parametrize(
    ("hostile", "seen"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP1$r\x1b\\x", "x"),
        ("\x9b31mred", "31mred"),
        ("a\x00b\x08c\rd\x7fe", "abcde"),
        ("over\u202ewritten\u2066", "overwritten"),
        ("tag\U000e0041s", "tags"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("lone \ud800 surrogate", "lone ? surrogate"),
        ("ends in \x1b", "ends in "),
        ("ends in \x1b[", "ends in "),
        ("Grüße 你好 🌙", "Grüße 你好 🌙"),
    ],
)
def test_escape_sequences_are_never_printed(hostile, seen):
    assert output.printable(hostile) == seen


def test_json_is_one_plain_line_that_parses_back(capfd):
    value = {
        "text": "\x1b[31m" + "x" * 500 + "\nline",
        "at": datetime(2030, 1, 2, tzinfo=UTC),
        "odd": "\ud800",
    }
    output.write_json(value)
    out, err = capfd.readouterr()
    assert out.count("\n") == 1
    assert out.isascii()
    assert "\x1b" not in out
    assert json.loads(out) == value | {"at": "2030-01-02T00:00:00+00:00"}
    assert err == ""


def test_a_table_is_aligned_by_the_width_of_its_characters(capfd):
    output.write_table(["NAME", "STATE"], [["你好", None], ["b", "run\nning"]])
    assert capfd.readouterr().out == "NAME  STATE\n你好  -\nb     run ning\n"


def test_a_row_is_cut_on_a_terminal_and_whole_in_a_pipe(monkeypatch, capsys):
    rows = [["b1", "你好 " * 10]]
    monkeypatch.setenv("COLUMNS", "20")
    output.write_table(["ID", "IDEA"], rows)
    assert "你好 " * 9 in capsys.readouterr().out
    monkeypatch.setattr(output.sys.stdout, "isatty", lambda: True)
    output.write_table(["ID", "IDEA"], rows)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("…")
    assert max(cell_len(line) for line in lines) <= 20


def test_fields_are_aligned(capfd):
    output.write_fields({"id": "b1", "phase": None})
    assert capfd.readouterr().out == "id:     b1\nphase:  -\n"


def test_progress_goes_only_to_a_terminal(capfd):
    output.note("kept")
    output.progress("never seen here")
    output.report_error("it failed", "do this")
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "kept\nerror: it failed\nhint: do this\n"
