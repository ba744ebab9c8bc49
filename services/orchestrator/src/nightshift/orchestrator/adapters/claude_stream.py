"""Assembles the message in a stream of the Messages API: its blocks, of any type, and the usage so far."""

import re
from collections.abc import Mapping
from typing import Any

from jiter import from_json
from pydantic import ValidationError

from nightshift.contracts import canonical
from nightshift.contracts.errors import ContractError
from nightshift.contracts.events.build import Usage

#: Used when the provider states no output tokens. A token of English or code usually has three bytes or more.
_BYTES_PER_TOKEN = 3
#: The tool names and call ids that the API accepts when they are sent back in later turns.
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_TOOL_USE_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")
#: The most characters of a message's id, model and stop reason.
_MAX_LENGTH = {"id": 255, "model": 128, "stop_reason": 128}


class Malformed(Exception):
    """An event of the stream breaks the protocol of the Messages API."""


class Assembly:
    """Assembles one message event by event, as the official SDK does.

    Ignores unknown events and deltas, a second `message_start`, and everything after the end. Keeps unknown blocks.
    """

    def __init__(self) -> None:
        self.message_id = ""
        self.model = ""
        self.stop_reason: str | None = None
        self.stop_details: dict[str, Any] | None = None
        self.began = False
        self._ended = False
        self._usage: dict[str, Any] = {}
        self._blocks: list[dict[str, Any]] = []
        self._open: set[int] = set()
        self._json: dict[int, str] = {}
        self._bytes = 0
        # True once the end of the message has stated the output tokens; the start only states a first guess.
        self._output_stated = False

    def take(self, event: Any) -> None:
        """Add one event of the stream to the message. Raises Malformed when the event breaks the protocol."""
        try:
            self._take(event)
        except (LookupError, TypeError, AttributeError, ContractError, ValidationError) as error:
            raise Malformed(f"an event that the Messages API does not have: {error!r}") from error

    @property
    def usage(self) -> Usage | None:
        """The token counts that the stream has stated so far, or None when it has stated none.

        Until the end of the message states the output tokens, every three received bytes count as one output token.
        """
        if not self._usage:
            return None
        stated = _usage(self._usage)
        if self._output_stated:
            return stated
        seen = -(-self._bytes // _BYTES_PER_TOKEN)
        return stated.model_copy(update={"output_tokens": max(stated.output_tokens, seen)})

    @property
    def complete(self) -> bool:
        """True when the whole message has arrived. The stream's last event `message_stop` may be missing: it states
        nothing.
        """
        return self.stop_reason is not None and not self._open

    @property
    def content(self) -> tuple[dict[str, Any], ...]:
        """The message's content blocks in order.

        The keys of a block have the canonical order, so that the block serializes to the same bytes later.
        """
        blocks = [
            {**block, "input": _input(self._json[index])} if index in self._json else block
            for index, block in enumerate(self._blocks)
        ]
        return tuple(canonical.loads(canonical.dumps(blocks)))

    @property
    def invalid_inputs(self) -> dict[int, str]:
        """Block index of a tool call → the text of its input, when the text is not one complete JSON object."""
        return {index: text for index, text in self._json.items() if _object(text) is None}

    def _take(self, event: Any) -> None:
        if self._ended:
            return
        match event["type"]:
            case "message_start" if not self.began:
                self.began = True
                self._start(event["message"])
            case "content_block_start":
                self._open.add(event["index"])
                self._blocks.append(dict(event["content_block"]))
            case "content_block_delta":
                self._delta(event["index"], event["delta"])
            case "content_block_stop":
                self._open.discard(event["index"])
            case "message_delta":
                self._stopped(event["delta"])
                usage = event.get("usage") or {}
                self._count(usage)
                self._output_stated = usage.get("output_tokens") is not None
            case "message_stop":
                self._ended = True
            case _:
                pass

    def _start(self, message: dict[str, Any]) -> None:
        self.message_id = _short_text(message, "id")
        self.model = _short_text(message, "model")
        self._blocks.extend(dict(block) for block in message.get("content") or ())
        self._stopped(message)
        self._count(message.get("usage") or {})

    def _stopped(self, stated: dict[str, Any]) -> None:
        if isinstance(details := stated.get("stop_details"), dict):
            self.stop_details = details
        if stated.get("stop_reason"):
            self.stop_reason = _short_text(stated, "stop_reason")
            self._check_calls()

    def _delta(self, index: int, delta: dict[str, Any]) -> None:
        block = self._blocks[index]
        match delta["type"]:
            case "text_delta":
                block["text"] = block.get("text", "") + self._seen(delta["text"])
            case "input_json_delta":
                text = self._json.get(index, "") + self._seen(delta["partial_json"])
                if text:
                    self._json[index] = text
            case "thinking_delta":
                block["thinking"] = block.get("thinking", "") + self._seen(delta["thinking"])
            case "signature_delta":
                block["signature"] = delta["signature"]
            case "citations_delta":
                block["citations"] = [*(block.get("citations") or ()), delta["citation"]]
            case _:
                pass

    def _check_calls(self) -> None:
        """Raise Malformed when a tool call has a name or an id that the API would refuse in later turns."""
        for block in self._blocks:
            if block.get("type") != "tool_use":
                continue
            name, call = block.get("name"), block.get("id")
            if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
                raise Malformed(f"a tool call with the name {name!r:.80}")
            if not isinstance(call, str) or not _TOOL_USE_ID.fullmatch(call):
                raise Malformed(f"a tool call with the id {call!r:.80}, which is none")

    def _count(self, usage: Mapping[str, Any]) -> None:
        """Replace the message's token counts by the newer ones in `usage`.

        Raises ValidationError for an invalid count, and then keeps the earlier counts.
        """
        stated = {**self._usage, **_stated(usage)}
        _usage(stated)
        self._usage = stated

    def _seen(self, text: str) -> str:
        self._bytes += len(text.encode("utf-8", "surrogatepass"))
        return text


def _object(text: str) -> dict[str, Any] | None:
    try:
        given = canonical.loads(text)
    except ContractError:
        return None
    return given if isinstance(given, dict) else None


def _input(text: str) -> Any:
    """Return the parsed JSON text of a tool call's input, as the SDK does.

    A text that is cut off gives its complete part. A text that is no JSON gives an empty object.
    """
    given = _object(text)
    if given is not None:
        return given
    try:
        return from_json(text.encode("utf-8", "replace"), partial_mode=True)
    except ValueError:
        return {}


def _short_text(stated: Mapping[str, Any], name: str) -> str:
    """Return the text `stated[name]`. Raises Malformed when the value is no text, is empty, or is too long."""
    text = stated[name]
    if not isinstance(text, str) or not 1 <= len(text) <= _MAX_LENGTH[name]:
        raise Malformed(f"{name} is {text!r:.80}")
    return text


def _stated(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Return `usage`, the provider's token counts, without the counts that are null.

    Counts inside `cache_creation` that are null are left out, too.
    """
    stated = {name: value for name, value in usage.items() if value is not None}
    if isinstance(split := stated.get("cache_creation"), Mapping):
        stated["cache_creation"] = {name: value for name, value in split.items() if value is not None}
    return stated


def _usage(stated: Mapping[str, Any]) -> Usage:
    """Return the provider's token counts `stated` as Usage.

    Cache writes for which the provider states no lifetime count as writes for five minutes. Raises ValidationError for
    a value that is not a count.
    """
    split = stated.get("cache_creation", {})
    usage = Usage(
        input_tokens=stated.get("input_tokens", 0),
        output_tokens=stated.get("output_tokens", 0),
        cache_read_input_tokens=stated.get("cache_read_input_tokens", 0),
        cache_write_5m_input_tokens=split.get("ephemeral_5m_input_tokens", 0),
        cache_write_1h_input_tokens=split.get("ephemeral_1h_input_tokens", 0),
    )
    written = Usage(input_tokens=stated.get("cache_creation_input_tokens", 0)).input_tokens
    five_minutes = max(usage.cache_write_5m_input_tokens, written - usage.cache_write_1h_input_tokens)
    return usage.model_copy(update={"cache_write_5m_input_tokens": five_minutes})
