"""Puts a Messages API stream together: blocks as they came, of any type, and the tokens told so far."""

from typing import Any

from nightshift.contracts import canonical
from nightshift.contracts.errors import ContractError
from nightshift.contracts.events.build import Usage

#: For a call that broke in the middle: a token of English or code is three bytes or more, as a rule.
_BYTES_PER_TOKEN = 3


class Malformed(Exception):
    """The stream holds what the protocol does not have."""


class Assembly:
    """One message, event by event. Unknown events and unknown deltas are passed over, unknown blocks are kept."""

    def __init__(self) -> None:
        self.message_id = ""
        self.model = ""
        self.stop_reason: str | None = None
        self.complete = False
        self._usage: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._json: dict[int, list[str]] = {}
        self._bytes = 0

    def take(self, event: Any) -> None:
        """Take in one event. Raises Malformed."""
        try:
            self._take(event)
        except (KeyError, TypeError, AttributeError, ContractError) as error:
            raise Malformed(f"an event that the Messages API does not have: {error!r}") from error

    @property
    def usage(self) -> Usage | None:
        """What was told so far; of a stream that has not ended, at least the output that was seen. None: nothing."""
        if not self._usage:
            return None
        told = _usage(self._usage)
        if self.stop_reason is not None:
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
                message = event["message"]
                self.message_id, self.model = str(message["id"]), str(message["model"])
                self._usage.update(_told(message["usage"]))
            case "content_block_start":
                self._blocks[event["index"]] = dict(event["content_block"])
            case "content_block_delta":
                self._delta(event["index"], event["delta"])
            case "content_block_stop":
                self._stop(event["index"])
            case "message_delta":
                self.stop_reason = event["delta"].get("stop_reason") or self.stop_reason
                self._usage.update(_told(event.get("usage") or {}))
            case "message_stop":
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
            self._blocks[index]["input"] = canonical.loads(text)
        except ContractError:
            # Cut off at the output limit. The form that Anthropic's documentation gives for handing it back.
            self._blocks[index]["input"] = {"INVALID_JSON": text}

    def _seen(self, text: str) -> str:
        self._bytes += len(text.encode("utf-8", "surrogatepass"))
        return text


def _told(usage: dict[str, Any]) -> dict[str, Any]:
    """Cumulative figures replace those before; what is not told again stays."""
    return {name: value for name, value in usage.items() if value is not None}


def _usage(told: dict[str, Any]) -> Usage:
    written = told.get("cache_creation_input_tokens", 0)
    split = told.get("cache_creation") or {}
    one_hour = split.get("ephemeral_1h_input_tokens", 0)
    return Usage(
        input_tokens=told.get("input_tokens", 0),
        output_tokens=told.get("output_tokens", 0),
        cache_read_input_tokens=told.get("cache_read_input_tokens", 0),
        cache_write_5m_input_tokens=split.get("ephemeral_5m_input_tokens", max(written - one_hour, 0)),
        cache_write_1h_input_tokens=one_hour,
    )
