"""The model and the tools of a build of realistic shape: parallel calls, errors, long outputs, a question, a dead end.

The model is as strict as the real API, and checks that each request of the builder begins with the one before.
"""

import json
import random
from collections.abc import Mapping
from typing import Any

from nightshift.contracts import canonical
from nightshift.contracts.events.build import ToolCallRequested
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.devstack.model.conversation import Conversation, validate
from nightshift.devstack.model.errors import Invalid
from nightshift.devstack.model.scenario import Call, Turn

CONDENSES = "replace the oldest part by a summary"
_STUCK = {"command": "make build"}


class LongAgent:
    """Answers by the number of its answers. The test says when it asks, is stuck, and is done."""

    def __init__(self, *, output: int) -> None:
        """`output` is the most characters of an ordinary result; some have the gateway's limit."""
        self.answers = 0
        self.asks = self.stuck = self.done = False
        self.refused: list[str] = []
        self.boundaries = 0
        self._output = output
        self._before: list[str] = []

    def check(self, body: Any, *, counting: bool = False) -> Conversation:
        """Returns the validated request. Raises Invalid, which is noted, for one that the API or the prefix refuses."""
        try:
            conversation = validate(body, counting=counting)
            if CONDENSES not in conversation.system and not counting:
                self._check_beginning(conversation)
        except Invalid as error:
            self.refused.append(str(error))
            raise
        return conversation

    def _check_beginning(self, conversation: Conversation) -> None:
        messages = [_unmarked(message) for message in conversation.messages]
        if self._before and messages[: len(self._before)] != self._before:
            if messages[0] == self._before[0]:
                raise Invalid(
                    "the request does not begin with the one before, and no boundary is between them"
                )
            self.boundaries += 1
        self._before = messages

    def turn(self, conversation: Conversation) -> Turn:
        """Returns the next answer."""
        if CONDENSES in conversation.system:
            return Turn(say=f"- Plan: {self.answers} answers so far; go on.\n- Open questions: none.")
        self.answers += 1
        number = self.answers
        think = f"thought {number}" if number % 3 == 0 else None
        if self.done:
            return Turn(say="Everything is built.")
        if self.asks:
            return Turn(calls=(Call(tool="ask_user", input={"question": "Which colour?"}),))
        if self.stuck:
            return Turn(think=think, calls=(Call(tool="bash", input=_STUCK),))
        calls = [
            Call(tool="bash", input={"command": f"step {number}.{part}"}) for part in range(1 + number % 3)
        ]
        if number % 4 == 0:
            text = f"print({number})\n" * 40
            calls.append(Call(tool="write_file", input={"file_path": f"src/{number}.py", "content": text}))
        return Turn(think=think, say=f"Step {number}.", calls=tuple(calls))

    def result(self, asked: ToolCallRequested) -> ToolCallCompleted:
        """Returns what the gateway returns for a call."""
        command = str(asked.input.get("command", "")) if isinstance(asked.input, Mapping) else ""
        if asked.purpose != "agent":
            return _completed(asked, "3 passed in 0.02s\n")
        if command == _STUCK["command"]:
            return _completed(asked, "ld: cannot find -lfoo\n[exit code 2]", failed=True)
        draws = random.Random(asked.call_id)
        output = f"{command}\n" + "x" * 79 * draws.randrange(1, self._output // 80)
        if draws.random() < 0.1:
            output += (
                f"\n\n[... 90000 characters cut; the whole is in /out/{asked.call_id}/out ...]\n\n"
                + "y" * 15_000
            )
        failed = draws.random() < 0.15
        return _completed(asked, f"{output}\n[exit code {int(failed)}]", failed=failed)


def _completed(asked: ToolCallRequested, output: str, *, failed: bool = False) -> ToolCallCompleted:
    return ToolCallCompleted(
        call_id=asked.call_id,
        is_error=failed,
        error_kind="exit" if failed else None,
        output=output,
        exit_code=int(failed),
        duration_ms=1,
    )


def _unmarked(message: Mapping[str, Any]) -> str:
    copied = json.loads(json.dumps(message))
    for block in copied["content"]:
        block.pop("cache_control", None)
    return canonical.dumps(copied)
