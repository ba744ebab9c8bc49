"""Chooses the turn of the scenario that answers a request. It looks only at the request.

So retries, restarts and parallel builds work. Only turns with a limit are counted, under a hash of the conversation.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from nightshift.devstack.model.conversation import Conversation
from nightshift.devstack.model.scenario import Call, Match, PositionedTurn, Scenario, Turn

_SHOWN = 300


class NoAnswer(Exception):
    """No turn of the scenario fits the request.

    The text lists each turn that was tried, with the condition that failed.
    """


class Chooser:
    """Chooses the scripted answer to a request: the first turn of the scenario whose conditions the request meets."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._turns = tuple(scenario.positioned())
        self._has_judge = any(turn.role == "judge" for turn in scenario.turns)
        self._used: dict[tuple[str, int], int] = {}

    def choose(self, conversation: Conversation) -> PositionedTurn:
        """Return the first turn in the scenario file whose position, `match` and limit fit the request.

        The position is the number of assistant messages in the request. Raises NoAnswer when no turn fits.
        """
        if conversation.role == "judge" and not self._has_judge:
            return PositionedTurn(_all_met(conversation), 0, None, None)
        position, looked_at = conversation.assistant_turns, []
        for chosen in self._turns:
            if chosen.turn.role != conversation.role:
                continue
            if chosen.positions is not None and position not in chosen.positions:
                continue
            missed = _missed(chosen.turn.match, conversation)
            if missed is not None:
                looked_at.append(f"{chosen.label} {missed}")
                continue
            if not self._take(chosen, conversation):
                looked_at.append(f"{chosen.label} was used up by this conversation")
                continue
            return chosen
        seen = (
            "; ".join(looked_at) or f"it has no turn for this position, only {len(self._turns)} turns in all"
        )
        raise NoAnswer(
            f"scenario '{self._scenario.name}' has no answer after {position} assistant turns: {seen}. "
            f"The last user message was: {_shown(conversation.last_user)}"
        )

    def fill(self, turn: Turn, conversation: Conversation) -> Turn:
        """Return the turn with its placeholders replaced by text from the conversation.

        Raises NoAnswer when a placeholder's pattern matches nothing.
        """
        patterns = {**self._scenario.capture, **turn.capture}

        def replace(found: "re.Match[str]") -> str:
            name = found[1]
            if name == "turn":
                return str(conversation.assistant_turns)
            if name not in patterns:
                return found[0]  # not a placeholder, but braces in code
            return _captured(name, patterns[name], conversation)

        def walk(value: Any) -> Any:
            match value:
                case str():
                    return re.sub(r"\{\{\s*(\w+)\s*\}\}", replace, value)
                case dict():
                    return {key: walk(one) for key, one in value.items()}
                case list():
                    return [walk(one) for one in value]
                case _:
                    return value

        calls = tuple(call.model_copy(update={"input": walk(call.input)}) for call in turn.calls)
        return turn.model_copy(update={"say": walk(turn.say), "think": walk(turn.think), "calls": calls})

    def _take(self, chosen: PositionedTurn, conversation: Conversation) -> bool:
        if chosen.turn.limit is None:
            return True
        key = (conversation.digest, chosen.number)
        if self._used.get(key, 0) >= chosen.turn.limit:
            return False
        self._used[key] = self._used.get(key, 0) + 1
        return True


def _all_met(conversation: Conversation) -> Turn:
    """Return the judge's turn for a scenario that has none: it reports every criterion as met."""
    listed = conversation.text.rpartition("The criteria:\n")[2]
    count = len(re.findall(r"^\d+\. ", listed, re.MULTILINE))
    verdicts = [
        {"criterion": number, "met": True, "evidence": "The scripted model says so; it has not looked."}
        for number in range(1, count + 1)
    ]
    return Turn(name="built-in judge", calls=(Call(tool="report_verdicts", input={"verdicts": verdicts}),))


def _captured(name: str, pattern: str, conversation: Conversation) -> str:
    """Return the text for the placeholder `name`: the last match of the pattern in the conversation.

    If the pattern has a group, that is only the text of its first group. Raises NoAnswer when nothing matches.
    """
    finds = list(re.finditer(pattern, f"{conversation.system}\n{conversation.text}", re.MULTILINE))
    if not finds:
        raise NoAnswer(f"placeholder {{{{{name}}}}}: nothing in the conversation matches {pattern!r}")
    newest = finds[-1]
    return str(newest[1] if newest.re.groups else newest[0])


def _missed(match: Match | None, seen: Conversation) -> str | None:
    """Return the first condition of `match` that the request does not meet, in words. None when it meets all."""
    if match is None:
        return None
    for field, value in match.model_dump(exclude_none=True).items():
        says = _CHECKS[field](value, seen)
        if says is not None:
            return f"wants {field} {value!r}, {says}"
    return None


def _contains(value: str, text: str, where: str) -> str | None:
    return None if value in text else f"{where} was {_shown(text)}"


_CHECKS: Mapping[str, Callable[[Any, Conversation], str | None]] = {
    "last_result_contains": lambda value, seen: _contains(value, seen.last_result, "it"),
    "last_result_lacks": lambda value, seen: (
        None if value not in seen.last_result else f"it was {_shown(seen.last_result)}"
    ),
    "last_result_matches": lambda value, seen: (
        None if re.search(value, seen.last_result, re.MULTILINE) else f"it was {_shown(seen.last_result)}"
    ),
    "last_result_is_error": lambda value, seen: (
        None
        if value is any(result.get("is_error") for result in seen.last_results)
        else f"it was {_shown(seen.last_result)}"
    ),
    "conversation_contains": lambda value, seen: None if value in seen.text else "nothing said so",
    "last_user_contains": lambda value, seen: _contains(value, seen.last_user, "it"),
    "last_assistant_contains": lambda value, seen: _contains(value, seen.last_assistant, "it"),
    "system_contains": lambda value, seen: _contains(value, seen.system, "it"),
    "turns_at_least": lambda value, seen: (
        None if seen.assistant_turns >= value else f"there were {seen.assistant_turns}"
    ),
    "turns_at_most": lambda value, seen: (
        None if seen.assistant_turns <= value else f"there were {seen.assistant_turns}"
    ),
}


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} … {text[-_SHOWN // 2 :]}")
