"""Answers that a forged agent may give: each ends in AgentBroken, and none in another error or in much memory."""

import json
from typing import Any

import pytest
from tests.support.scripted_channel import ScriptedChannel

from nightshift.sandboxes import answers
from nightshift.sandboxes.agent.wire import END, LENGTH, frame, json_frame
from nightshift.sandboxes.client import AgentSandbox
from nightshift.sandboxes.errors import AgentBroken, AnswerCut
from nightshift.sandboxes.port import CallSpec, GrepQuery

DEEP = b"[" * 50_000 + b"]" * 50_000
FRAMES = {
    "nothing": frame(b""),
    "no_json": frame(b"{"),
    "bytes": frame(b"\xff\xfe"),
    "a_list": frame(b"[]"),
    "a_number": frame(b"7"),
    "null": frame(b"null"),
    "deep": frame(DEEP),
    "deep_objects": frame(b'{"a":' * 20_000 + b"1" + b"}" * 20_000),
    "many_objects": frame(b"[" + b"{}," * 70_000 + b"{}]"),
    "many_numbers": frame(b"[" + b"1," * 700_000 + b"1]"),
    "a_long_number": frame(b'{"state": "finished", "exit_code": ' + b"9" * 100_000 + b"}"),
    "too_long": LENGTH.pack(1 << 31),
}
VALUES: dict[str, dict[str, Any]] = {
    "no_state": {},
    "another_state": {"state": "ready"},
    "a_state_that_is_a_list": {"state": ["running"]},
    "a_state_that_is_true": {"state": True},
    "no_exit_code": {"state": "finished"},
    "a_text_for_the_code": {"state": "finished", "exit_code": "0"},
    "true_for_the_code": {"state": "finished", "exit_code": True},
    "a_negative_code": {"state": "finished", "exit_code": -1},
    "a_float_for_the_code": {"state": "finished", "exit_code": 0.5},
    "infinity_for_the_code": {"state": "finished", "exit_code": float("inf")},
    "a_huge_code": {"state": "finished", "exit_code": 1 << 70},
    "a_text_for_a_truth": {"state": "finished", "exit_code": 0, "timed_out": "yes"},
    "a_number_for_a_truth": {"state": "finished", "exit_code": 0, "stopped": 1},
    "a_number_for_the_folder": {"state": "running", "folder": 7},
    "a_huge_folder": {"state": "running", "folder": "x" * 100_000},
    "an_error_that_is_a_list": {"error": ["lost"]},
}
ENTRIES: dict[str, Any] = {
    "no_object": 7,
    "no_path": {"kind": "file"},
    "a_number_for_the_path": {"path": 7, "kind": "file"},
    "a_huge_path": {"path": "x" * 1_000_000, "kind": "file"},
    "another_kind": {"path": "a", "kind": "device"},
    "a_kind_that_is_a_list": {"path": "a", "kind": []},
    "a_negative_size": {"path": "a", "kind": "file", "size": -1},
    "a_text_for_the_size": {"path": "a", "kind": "file", "size": "1"},
    "a_huge_size": {"path": "a", "kind": "file", "size": 1 << 64},
    "a_text_for_the_mode": {"path": "a", "kind": "file", "mode": "0644"},
    "a_huge_time": {"path": "a", "kind": "file", "mtime_ns": 1 << 80},
    "a_digest_that_is_none": {"path": "a", "kind": "file", "digest": "../../etc"},
    "a_short_digest": {"path": "a", "kind": "file", "digest": "ab"},
    "a_number_for_the_target": {"path": "a", "kind": "symlink", "target": 1},
    "a_huge_problem": {"path": "a", "kind": "file", "problem": "x" * 1_000_000},
    "a_list_for_the_link": {"path": "a", "kind": "file", "link": ["b"]},
}


@pytest.mark.parametrize("name", FRAMES)
async def test_a_frame_that_is_no_answer_is_refused(name: str) -> None:
    with pytest.raises(AgentBroken):
        await ScriptedChannel(FRAMES[name]).sandbox().call_status("b/1/0")


@pytest.mark.parametrize("name", VALUES)
async def test_a_state_of_a_call_with_a_wrong_value_is_refused(name: str) -> None:
    with pytest.raises(AgentBroken):
        await ScriptedChannel(json_frame(VALUES[name])).sandbox().call_status("b/1/0")


@pytest.mark.parametrize("name", ENTRIES)
async def test_an_entry_with_a_wrong_value_is_refused(name: str) -> None:
    row = ENTRIES[name]
    for answer in (json_frame({}) + json_frame([row]) + END, json_frame({}) + json_frame([[row]]) + END):
        with pytest.raises(AgentBroken):
            await ScriptedChannel(answer).sandbox().list_tree()
    with pytest.raises(AgentBroken):
        await ScriptedChannel(json_frame({"entry": row})).sandbox().stat("a")


def _sandbox(*frames: bytes) -> AgentSandbox:
    return ScriptedChannel(b"".join(frames)).sandbox()


async def test_more_than_was_asked_for_is_refused() -> None:
    chunk = frame(b"x" * 1000)
    with pytest.raises(AgentBroken):
        await _sandbox(json_frame({}), chunk, chunk, END).read_file("f", limit=1500)
    output = json_frame({"state": "finished", "exit_code": 0, "output": True})
    with pytest.raises(AgentBroken):
        await _sandbox(output, *([frame(b"x" * 300_000)] * 5), END, END).run_call(
            CallSpec("b/1/0", ["x"]), wait_s=1
        )
    rows = json_frame([{"path": "a", "kind": "file"}] * 1001)
    with pytest.raises(AgentBroken):
        await _sandbox(json_frame({}), rows, END).list_tree()
    with pytest.raises(AgentBroken):
        await _sandbox(
            json_frame({"entries": [{"path": "a", "kind": "file"}] * 3, "total": 3, "notes": []})
        ).glob("*", limit=2)
    with pytest.raises(AgentBroken):
        await _sandbox(json_frame({"rows": [], "more": "no", "notes": []})).grep(GrepQuery("x", 1))


async def test_a_block_that_is_not_what_its_header_says_is_refused() -> None:
    part = {"path": "a", "bytes": 2, "more": False}
    for answer in (
        json_frame({"parts": [part]}) + frame(b"xyz") + END,
        json_frame({"parts": [part]}) + frame(b"x") + END,
        json_frame({"parts": [{**part, "bytes": 1 << 40}]}) + END,
        json_frame({"parts": [{**part, "bytes": -1}]}) + END,
        json_frame({"parts": 7}) + END,
        json_frame({"next": 0, "offset": 0}),
        json_frame({"next": -1, "offset": 0}),
    ):
        with pytest.raises(AgentBroken):
            async for _ in _sandbox(json_frame({}), answer).export_files(1, ["a", "b"]):
                pass


async def test_an_answer_that_breaks_off_may_be_asked_for_again() -> None:
    with pytest.raises(AnswerCut):
        await _sandbox(LENGTH.pack(100) + b"{").call_status("b/1/0")


def test_names_that_are_no_text_elsewhere_are_kept() -> None:
    row = json.loads(json.dumps({"path": "\udcff[{,", "kind": "file", "size": 3}))
    assert answers.entry(row).path == "\udcff[{,"
