"""Builds from files: lines of JSON and archives, what is refused in them, and what a redacted one no longer holds."""

import json
import zipfile
from pathlib import Path

import pytest
from tests.support.long_build import long_build

from nightshift.cli import main
from nightshift.cli.archive import is_archive, read_archive, write_archive
from nightshift.cli.event_lines import event_json, read_lines
from nightshift.cli.exits import Exit
from nightshift.contracts.events.build import BuildAccepted
from nightshift.eventlog.errors import NotFound, Refused

EVENTS = long_build(2)
LINES = [json.dumps(event_json(one)) for one in EVENTS]


def test_events_come_back_from_their_lines_as_they_were():
    assert read_lines([*LINES, "", '{"status": "running"}'], "a file") == EVENTS


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        (lambda lines: lines.pop(4), "line 5: a gap: version 6 where 5 must be"),
        (lambda lines: lines.insert(4, lines[3]), "line 5: a repeated version: version 4 where 5 must be"),
        (lambda lines: lines.__setitem__(4, "{"), "line 5: not an event"),
        (lambda lines: lines.__setitem__(4, '{"version": 5}'), "line 5: not an event: KeyError"),
        (
            lambda lines: lines.__setitem__(4, lines[4].replace("model_call", "nothing")),
            "line 5: .*no event type",
        ),
        (
            lambda lines: lines.__setitem__(4, lines[4].replace("build-b1", "build-b2")),
            "line 5: an event of build-b2",
        ),
    ],
)
def test_a_damaged_log_is_refused_with_its_line(damage, where: str, tmp_path: Path, capfd):
    lines = list(LINES)
    assert "model_call" in lines[6]
    damage(lines)
    lines[4] = (
        lines[4].replace("build.phase_changed", "build.nothing") if "no event type" in where else lines[4]
    )
    with pytest.raises(Refused, match=where):
        read_lines(lines, "a file")
    path = tmp_path / "build.jsonl"
    path.write_text("\n".join(lines))
    assert main.run(["replay", str(path)]) == Exit.ERROR
    assert "line 5" in capfd.readouterr().err


def test_a_log_without_events_is_not_found():
    with pytest.raises(NotFound):
        read_lines(["", "{}"], "a file")


def test_replay_prints_the_state_at_a_moment(tmp_path: Path, capfd):
    path = tmp_path / "build.jsonl"
    path.write_text("\n".join(LINES))
    assert main.run(["replay", str(path), "--at", "turn:1"]) == Exit.OK
    shown = capfd.readouterr().out
    assert "turn:              1" in shown
    assert "Turn 1: I write the module" in shown
    assert main.run(["replay", str(path), "--at", "turn:1", "--json"]) == Exit.OK
    state = json.loads(capfd.readouterr().out)
    assert (state["conversation"]["turn"], len(state["conversation"]["entries"])) == (1, 3)
    assert main.run(["replay", str(path), "--at", "turn:9"]) == Exit.NOT_FOUND
    assert main.run(["replay", str(path), "--at", "now", "--html", "x.html"]) == Exit.USAGE


def test_an_archive_holds_the_events_and_the_objects(tmp_path: Path):
    path = tmp_path / "b1.nightshift.zip"
    write_archive(
        path, EVENTS, [("blobs/aa", lambda: b"text"), ("projects/p1/x.pack", lambda: b"pack")], redact=False
    )
    archive = read_archive(path)
    assert (archive.events, archive.build_id, archive.redacted) == (tuple(EVENTS), "b1", False)
    assert archive.objects().bodies == {"blobs/aa": b"text"}
    assert archive.object("projects/p1/x.pack") == b"pack"
    with pytest.raises(NotFound):
        archive.object("blobs/bb")
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_redacted_archive_holds_no_text_of_a_person_or_a_model(tmp_path: Path):
    path = tmp_path / "b1.nightshift.zip"
    write_archive(path, EVENTS, [("blobs/aa", lambda: b"text")], redact=True)
    archive = read_archive(path)
    assert (archive.redacted, archive.keys) == (True, ())
    whole = b"".join(zipfile.ZipFile(path).read(name) for name in zipfile.ZipFile(path).namelist())
    for text in (
        b"page that says hello",
        b"write the module",
        b"passed in",
        b"function_1",
        b"src/module",
        b"next step",
    ):
        assert text not in whole
    assert [(one.data.type, one.version, one.event_id) for one in archive.events] == [
        (one.data.type, one.version, one.event_id) for one in EVENTS
    ]
    accepted = archive.events[0].data
    assert isinstance(accepted, BuildAccepted)
    assert accepted.idea_brief == "[23 characters]"
    assert main.run(["replay", str(path), "--at", "turn:2"]) == Exit.OK


@pytest.mark.parametrize("damage", ["cut", "newer", "no zip", "gap"])
def test_a_damaged_archive_is_refused(damage: str, tmp_path: Path):
    path, copy = tmp_path / "b1.nightshift.zip", tmp_path / "copy.nightshift.zip"
    write_archive(path, EVENTS, redact=False)
    with zipfile.ZipFile(path) as file, zipfile.ZipFile(copy, "w") as changed:
        header, lines = file.read("nightshift.json"), file.read("events.ndjson").splitlines(keepends=True)
        if damage == "newer":
            header = header.replace(b'"format": 1', b'"format": 2')
        elif damage == "cut":
            lines = lines[:-1]
        elif damage == "gap":
            del lines[3]
        changed.writestr("nightshift.json", header)
        changed.writestr("events.ndjson", b"".join(lines))
    if damage == "no zip":
        copy.write_bytes(copy.read_bytes()[:100])
        assert not is_archive(copy)
    with pytest.raises(
        Refused, match={"newer": "format 2", "cut": "it is cut", "gap": "line 4"}.get(damage, "no archive")
    ):
        read_archive(copy)
