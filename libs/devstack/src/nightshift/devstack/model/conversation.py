"""A request to the Messages API: the properties that scenarios match, and the checks that the real API makes."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any

from nightshift.contracts.models import Role
from nightshift.contracts.tools import ReportVerdicts
from nightshift.devstack.model import rules, tool_rules
from nightshift.devstack.model.errors import Invalid


@dataclass(frozen=True)
class Conversation:
    """A validated request body."""

    body: Mapping[str, Any]

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """The messages so far. The last one is a user message."""
        messages: Sequence[Mapping[str, Any]] = self.body["messages"]
        return messages

    @cached_property
    def assistant_turns(self) -> int:
        """The number of assistant messages in the request."""
        return sum(message["role"] == "assistant" for message in self.messages)

    @cached_property
    def digest(self) -> str:
        """A hash of the system prompt and the messages. It identifies the conversation."""
        text = json.dumps([self.body.get("system"), self.messages], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def system(self) -> str:
        """The text of the system prompt."""
        system = self.body.get("system") or ""
        return system if isinstance(system, str) else "\n".join(_texts(system))

    @cached_property
    def text(self) -> str:
        """The text of all messages, tool inputs and tool results."""
        return "\n".join(text for message in self.messages for text in _texts(blocks_of(message)))

    @cached_property
    def last_user(self) -> str:
        """The text of the user messages after the model's last message, including tool results."""
        return "\n".join(_texts(self._last_blocks))

    @cached_property
    def last_assistant(self) -> str:
        """The text of the model's last message, or an empty text before the first."""
        for message in reversed(self.messages):
            if message["role"] == "assistant":
                return "\n".join(_texts(blocks_of(message)))
        return ""

    @cached_property
    def last_results(self) -> Sequence[Mapping[str, Any]]:
        """The tool results that the user sent after the model's last message."""
        return [block for block in self._last_blocks if block.get("type") == "tool_result"]

    @cached_property
    def _last_blocks(self) -> Sequence[Mapping[str, Any]]:
        """The content blocks after the model's last message. They may be in several messages, which the API joins."""
        users = list(takewhile(lambda message: message["role"] != "assistant", reversed(self.messages)))
        return [block for message in reversed(users) for block in blocks_of(message)]

    @cached_property
    def last_result(self) -> str:
        """The text of the last tool results, joined by newlines."""
        return "\n".join(_texts(self.last_results))

    @property
    def role(self) -> Role:
        """The role of the call: judge when the request offers the tool that reports verdicts, else builder."""
        return "judge" if ReportVerdicts.tool in self.tools else "builder"

    @property
    def tools(self) -> set[str]:
        """The names of the tools in the request."""
        return {str(tool.get("name")) for tool in self.body.get("tools") or ()}


def blocks_of(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the content of a message as blocks. Plain text becomes one text block."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _texts(blocks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for block in blocks:
        match block.get("type"):
            case "text":
                yield str(block.get("text", ""))
            case "tool_use":
                yield f"{block.get('name')} {json.dumps(block.get('input'), ensure_ascii=False)}"
            case "tool_result":
                content = block.get("content") or ""
                yield from [content] if isinstance(content, str) else _texts(content)


def validate(body: Any, *, counting: bool = False) -> Conversation:
    """Return the conversation in a request body. Raises Invalid when the body breaks a rule of the Messages API.

    Checks the rules that an agent loop can break. If `counting`, the body is a request to count tokens, which has no
    limit of output.
    """
    if not isinstance(body, dict):
        raise Invalid("the body must be a JSON object")
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise Invalid("model: Field required")
    tokens = body.get("max_tokens")
    if not counting and (not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1):
        raise Invalid("max_tokens: Field required, an integer of at least 1")
    rules.check_parameters(body, counting=counting)
    tool_rules.check_system(body.get("system"))
    tool_rules.check_tools(body.get("tools"))
    thinking = (body.get("thinking") or {}).get("type", "disabled")
    offered = [tool["name"] for tool in body.get("tools") or ()]
    tool_rules.check_tool_choice(body.get("tool_choice"), offered, thinks=thinking != "disabled")
    _check_messages(body.get("messages"))
    rules.check_thinking_blocks(body)
    tool_rules.check_marks(body)
    return Conversation(body)


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise Invalid("messages: at least one message is required")
    asked: list[str] = []
    used: set[str] = set()
    for index, message in enumerate(messages):
        place = f"messages.{index}"
        role = message.get("role") if isinstance(message, dict) else None
        if role not in {"user", "assistant"}:
            raise Invalid(f"{place}.role: must be user or assistant")
        if index == 0 and role != "user":
            raise Invalid(f"{place}: the first message must be from the user")
        for name in set(message) - {"role", "content"}:
            raise Invalid(f"{place}.{name}: Extra inputs are not permitted")
        _check_content(message.get("content"), place)
        blocks = blocks_of(message)
        if role == "user":
            _check_results(blocks, asked, place)
            asked = []
        else:
            asked = [str(block.get("id")) for block in blocks if block.get("type") == "tool_use"]
            if len(set(asked)) != len(asked) or used & set(asked):
                raise Invalid(f"{place}: `tool_use` ids must be unique")
            used.update(asked)
    if messages[-1]["role"] != "user":
        raise Invalid("the conversation must end with a user message: prefilled answers are not supported")


def _check_content(content: Any, place: str) -> None:
    if not content or not isinstance(content, str | list):
        raise Invalid(f"{place}.content: must not be empty")
    if isinstance(content, str):
        return
    for index, block in enumerate(content):
        if not isinstance(block, dict) or "type" not in block:
            raise Invalid(f"{place}.content.{index}.type: Field required")
        rules.check_block(block, f"{place}.content.{index}")


def _check_results(blocks: Sequence[Mapping[str, Any]], asked: Sequence[str], place: str) -> None:
    answered: list[str] = []
    for index, block in enumerate(blocks):
        if block["type"] != "tool_result":
            continue
        name = str(block.get("tool_use_id"))
        if name not in asked:
            raise Invalid(
                f"{place}.content.{index}: unexpected `tool_use_id` found in `tool_result` blocks: {name}. Each "
                "`tool_result` block must have a corresponding `tool_use` block in the previous message."
            )
        if name in answered:
            raise Invalid(
                f"{place}.content.{index}: each tool_use must have a single result. Found multiple for {name}"
            )
        if len(answered) != index:
            raise Invalid(f"{place}.content.{index}: `tool_result` blocks must come before all other content")
        answered.append(name)
    missing = [name for name in asked if name not in answered]
    if missing:
        raise Invalid(
            f"{place}: `tool_use` ids were found without `tool_result` blocks immediately after: {', '.join(missing)}"
        )
