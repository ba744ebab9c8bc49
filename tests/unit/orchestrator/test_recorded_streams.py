"""The usage of recorded streams of the real Messages API equals what the official SDK accumulates from them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event

from nightshift.orchestrator.adapters.claude_stream import Assembly

CHECKOUT = Path(__file__).parents[3]
FILES = sorted(file for folder in CHECKOUT.parents for file in folder.glob("shared/recorded/streams/*.sse"))

pytestmark = pytest.mark.skipif(not FILES, reason="the recorded streams are not beside this checkout")


def messages(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The events of each whole message in a recording; some hold several, one after another."""
    events: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("data:"):
            continue
        event = json.loads(line.removeprefix("data:"))
        if event["type"] == "message_start":
            events = []
        events.append(event)
        if event["type"] == "message_stop" and events[0]["type"] == "message_start":
            yield events


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem[-60:])
def test_usage_is_what_the_sdk_accumulates(path: Path) -> None:
    for events in messages(path):
        snapshot, buffers = None, {}
        assembly = Assembly()
        for event in events:
            if event["type"] != "ping":
                snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers)
            assembly.take(event)
        assert snapshot is not None
        assert assembly.usage is not None
        theirs, ours = snapshot.usage, assembly.usage
        assert ours.input_tokens == (theirs.input_tokens or 0)
        assert ours.output_tokens == (theirs.output_tokens or 0)
        assert ours.cache_read_input_tokens == (theirs.cache_read_input_tokens or 0)
        written = ours.cache_write_5m_input_tokens + ours.cache_write_1h_input_tokens
        assert written == (theirs.cache_creation_input_tokens or 0)
