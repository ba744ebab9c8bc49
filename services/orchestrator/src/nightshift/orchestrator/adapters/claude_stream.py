"""Puts a Messages API stream together: blocks as they came, of any type, and the tokens told so far."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from nightshift.contracts import canonical
from nightshift.contracts.errors import ContractError
from nightshift.contracts.events.build import Usage

#: Where the provider states no output: a token of English or code is three bytes or more, as a rule.
_BYTES_PER_TOKEN = 3
#: What the API takes back as a tool's name and as a call's id; what it would refuse at every later turn is not kept.
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_TOOL_USE_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")
#: Characters of a message's id, its model and its stop reason.
_MOST = {"id": 255, "model": 128, "stop_reason": 128}


class Malformed(Exception):
    """The stream holds what the protocol does not have."""


class Assembly:
    """One message, event by event. Unknown events and unknown deltas are passed over, unknown blocks are kept."""

    def __init__(self) -> None:
        self.message_id = ""
        self.model = ""
        self.stop_reason: str | None = None
        self.began = False
        self.complete = False
        self._usage: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._json: dict[int, list[str]] = {}
        self._bytes = 0
        self._output_stated = False  # by the end of the message; its start states a first guess

    def take(self, event: Any) -> None:
        """Take in one event. Raises Malformed."""
        try:
            self._take(event)
        except (KeyError, TypeError, AttributeError, ContractError, ValidationError) as error:
            raise Malformed(f"an event that the Messages API does not have: {error!r}") from error

    @property
    def usage(self) -> Usage | None:
        """The counts stated so far. Returns None when none was stated.

        Until the end states the output, the output that was received counts as a third of a token a byte.
        """
        if not self._usage:
            return None
        told = _usage(self._usage)
        if self._output_stated:
            return told
        seen = -(-self._bytes // _BYTES_PER_TOKEN)
        return told.model_copy(update={"output_tokens": max(told.output_tokens, seen)})

    @property
    def content(self) -> tuple[dict[str, Any], ...]:
        """The blocks in their order, keys in canonical order, so that they are the same bytes when read back."""
        blocks = [self._blocks[index] for index in sorted(self._blocks)]
        return tuple(canonical.loads(canonical.dumps(blocks)))

    def _take(self, event: Any) -> None:
        match event["type"]:
            case "message_start":
                self.began = True
                message = event["message"]
                self.message_id = _word(message, "id")
                self.model = _word(message, "model")
                self._count(message.get("usage") or {})
            case "content_block_start":
                self._blocks[event["index"]] = dict(event["content_block"])
            case "content_block_delta":
                self._delta(event["index"], event["delta"])
            case "content_block_stop":
                self._stop(event["index"])
            case "message_delta":
                if event["delta"].get("stop_reason"):
                    self.stop_reason = _word(event["delta"], "stop_reason")
                usage = event.get("usage") or {}
                self._count(usage)
                self._output_stated = usage.get("output_tokens") is not None
            case "message_stop":
                self._check_calls()
                self.complete = self.stop_reason is not None
            case _:
                pass

    def _delta(self, index: int, delta: dict[str, Any]) -> None:
        block = self._blocks[index]
        match delta["type"]:
            case "text_delta":
                block["text"] = block.get("text", "") + self._seen(delta["text"])
            case "input_json_delta":
                self._json.setdefault(index, []).append(self._seen(delta["partial_json"]))
            case "thinking_delta":
                block["thinking"] = block.get("thinking", "") + self._seen(delta["thinking"])
            case "signature_delta":
                block["signature"] = delta["signature"]
            case "citations_delta":
                block["citations"] = [*(block.get("citations") or ()), delta["citation"]]
            case _:
                pass

    def _stop(self, index: int) -> None:
        text = "".join(self._json.pop(index, ()))
        if not text:
            return
        try:
            given = canonical.loads(text)
        except ContractError:
            given = None
        # Cut off at the output limit, or no object. The form that Anthropic's documentation gives for handing it back.
        self._blocks[index]["input"] = given if isinstance(given, dict) else {"INVALID_JSON": text}

    def _check_calls(self) -> None:
        """An answer whose calls cannot be told apart, or not be handed back, is no answer: it is asked for again."""
        ids: set[str] = set()
        for block in self._blocks.values():
            if block.get("type") != "tool_use":
                continue
            name, call = block.get("name"), block.get("id")
            if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
                raise Malformed(f"a tool call with the name {name!r:.80}")
            if not isinstance(call, str) or not _TOOL_USE_ID.fullmatch(call) or call in ids:
                raise Malformed(f"a tool call with the id {call!r:.80}, which is none or was used before")
            ids.add(call)

    def _count(self, usage: Mapping[str, Any]) -> None:
        """Cumulative figures replace those before; what is no count is refused, and what was told before stands."""
        told = {**self._usage, **_told(usage)}
        _usage(told)
        self._usage = told

    def _seen(self, text: str) -> str:
        self._bytes += len(text.encode("utf-8", "surrogatepass"))
        return text


def _word(told: Mapping[str, Any], name: str) -> str:
    """A short text of the protocol. Raises Malformed."""
    word = told[name]
    if not isinstance(word, str) or not 1 <= len(word) <= _MOST[name]:
        raise Malformed(f"{name} is {word!r:.80}")
    return word


def _told(usage: Mapping[str, Any]) -> dict[str, Any]:
    """The counts that the provider states. Null means that it does not state one, inside `cache_creation` too."""
    told = {name: value for name, value in usage.items() if value is not None}
    if isinstance(split := told.get("cache_creation"), Mapping):
        told["cache_creation"] = {name: value for name, value in split.items() if value is not None}
    return told


def _usage(told: Mapping[str, Any]) -> Usage:
    """Tokens as they are billed. The total of cache writes may grow after the split by lifetime was stated.

    Raises ValidationError for a value that is not a count.
    """
    split = told.get("cache_creation", {})
    usage = Usage(
        input_tokens=told.get("input_tokens", 0),
        output_tokens=told.get("output_tokens", 0),
        cache_read_input_tokens=told.get("cache_read_input_tokens", 0),
        cache_write_5m_input_tokens=split.get("ephemeral_5m_input_tokens", 0),
        cache_write_1h_input_tokens=split.get("ephemeral_1h_input_tokens", 0),
    )
    written = Usage(input_tokens=told.get("cache_creation_input_tokens", 0)).input_tokens
    five_minutes = max(usage.cache_write_5m_input_tokens, written - usage.cache_write_1h_input_tokens)
    return usage.model_copy(update={"cache_write_5m_input_tokens": five_minutes})
