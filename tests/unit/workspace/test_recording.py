"""The recording of the demo: how the script reads a terminal's output, and what the committed files hold."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("record_demo", ROOT / "scripts" / "record_demo.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["record_demo"] = module
    spec.loader.exec_module(module)
    return module


def texts(rows) -> list[str]:
    return ["".join(text for _, text in row.pieces) for row in rows]


def test_an_erased_spinner_leaves_only_the_lines_above_it(script) -> None:
    events = [
        (0.5, "one\r\n\r\n* busy"),
        (1.0, "\x1b[2K\x1b[1A\x1b[2K\x1b[36mtwo\x1b[0m &\r\n\r\n+ busy"),
        (9.0, "\x1b[2K\x1b[1A\x1b[2Kthree"),
    ]
    rows = script.transcript(events)
    assert texts(rows) == ["one", "two &", "three"]
    assert rows[1].pieces == [("c", "two"), ("", " &")]
    assert list(script.shortened(rows)) == [0.5, 1.0, 2.5]
    drawn = script.draw(rows)
    assert '<tspan class="c">two</tspan> &amp;</text>' in drawn
    assert ElementTree.fromstring(drawn).tag.endswith("svg")


def test_the_recording_ends_ready_and_names_no_folder_of_a_machine(script) -> None:
    header, *events = map(json.loads, script.CAST.read_text().splitlines())
    assert header["version"] == 2
    shown = "\n".join(texts(script.transcript((at, text) for at, _, text in events)))
    assert re.search(r"status: +ready\n", shown)
    assert "sleep" in shown
    for file in (script.CAST, script.SVG):
        assert not re.search(r"/(work|root|home|tmp|Users)/", file.read_text()), file


def test_the_drawing_is_that_of_the_recording(script) -> None:
    _, *events = map(json.loads, script.CAST.read_text().splitlines())
    assert script.SVG.read_text() == script.draw(script.transcript((at, text) for at, _, text in events))
