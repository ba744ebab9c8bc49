"""Writes turns of a conversation as text of limited size, for a model that was not part of the conversation. Pure."""

from collections.abc import Iterator
from typing import Any, assert_never

from nightshift.contracts import canonical
from nightshift.contracts.model import BlobRef
from nightshift.orchestrator.domain.state import (
    AssistantMessage,
    Entry,
    Text,
    ToolResult,
    ToolResults,
    UserMessage,
)

#: Limits of the characters of each text, input and result. The first limit with which everything fits is used.
_CAPS = (6_000, 3_000, 1_500, 700, 300, 120)


def transcript(entries: tuple[Entry, ...], most_bytes: int) -> str:
    """Return the entries as at most `most_bytes` bytes of UTF-8. Cuts long parts first, and then the oldest turns."""
    text = ""
    for cap in _CAPS:
        text = "\n".join(line for entry in entries for line in _lines(entry, cap))
        if len(_bytes(text)) <= most_bytes:
            return text
    note = "[the oldest turns are left out]\n"
    return note + _bytes(text)[-(most_bytes - len(note)) :].decode("utf-8", "ignore")


def shortened(text: str, most: int) -> str:
    """Return the beginning and the end of a long text, with a note about the left-out characters between them."""
    if len(text) <= most:
        return text
    first = most * 2 // 3
    return f"{text[:first]} [... {len(text) - most} characters ...] {text[len(text) - (most - first) :]}"


def _lines(entry: Entry, cap: int) -> Iterator[str]:
    match entry:
        case AssistantMessage():
            yield f"## Turn {entry.turn}"
            for block in () if isinstance(entry.content, BlobRef) else entry.content:
                yield from _block(block, cap)
        case ToolResults():
            for result in entry.results:
                yield _result(result, cap)
        case UserMessage():
            yield f"Told the agent: {shortened(_inline(entry.text), cap)}"
        case _:
            assert_never(entry)


def _block(block: dict[str, Any], cap: int) -> Iterator[str]:
    match block.get("type"):
        case "text":
            yield f"Agent: {shortened(str(block.get('text', '')), cap)}"
        case "tool_use":
            yield f"Call of {block.get('name')}: {shortened(canonical.dumps(block.get('input')), cap)}"
        case _:
            return  # other models cannot use the thinking


def _result(result: ToolResult, cap: int) -> str:
    text = _inline(result.output)
    if not text.strip() and result.blocks and not isinstance(result.blocks, BlobRef):
        text = " ".join(str(block.get("text", f"[{block.get('type')}]")) for block in result.blocks)
    return f"{'Error' if result.is_error else 'Result'}: {shortened(text or '(no output)', cap)}"


def _inline(text: Text) -> str:
    return f"[{text.bytes} bytes]" if isinstance(text, BlobRef) else text


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
