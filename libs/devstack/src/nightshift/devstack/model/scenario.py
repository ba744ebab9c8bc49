"""The scenario file: what the scripted model answers in each turn, and which failures it produces.

The position of a turn is the number of assistant messages that the request already contains. A turn that fails
(`status`, `cut_after`, …) has the same position as the next turn that answers. The README of nightshift-devstack
describes the format.
"""

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from nightshift.contracts.models import Role
from nightshift.contracts.tools import JUDGE_TOOLS, TOOLS
from nightshift.devstack.errors import BadScenario


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return pattern


def _is_json(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, allow_nan=False)
    except TypeError as error:
        raise ValueError(f"{error}: YAML reads a date, a set and the like unless they are quoted") from None
    except RecursionError:
        raise ValueError("it holds itself, or is nested too deeply") from None
    return value


def _schema_faults(tool: str, given: dict[str, Any]) -> str:
    """Return in words which fields of a tool's input break its schema. Empty when the input fits.

    Texts with a `{{placeholder}}` are not checked, because their value is not known yet.
    """
    schema = TOOLS.get(tool) or JUDGE_TOOLS.get(tool)
    if schema is None:
        return f"there is no tool called {tool}; there are {', '.join(TOOLS)}"
    try:
        schema.model_validate(given)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc']))}: " * bool(fault["loc"]) + _plain(fault["msg"])
            for fault in error.errors()
            if not (isinstance(fault["input"], str) and "{{" in fault["input"])
        ]
        if faults:
            return f"{tool}: {'; '.join(faults)}; it takes {', '.join(schema.model_fields)}"
    return ""


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ")


Pattern = Annotated[str, AfterValidator(_compiles)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Match(_Part):
    """Conditions on a request, which must meet all of those that are given.

    A pattern may match anywhere in the text, also across lines.
    """

    last_result_contains: str | None = None  # the text of the newest tool results
    last_result_lacks: str | None = None
    last_result_matches: Pattern | None = None
    last_result_is_error: bool | None = None
    conversation_contains: str | None = None  # any text so far, such as a build id
    last_user_contains: str | None = None  # the newest user message, with tool results
    last_assistant_contains: str | None = None  # the model's last message, with tool inputs
    system_contains: str | None = None
    turns_at_least: int | None = None  # the number of assistant messages so far
    turns_at_most: int | None = None


class Call(_Part):
    """A tool call that the scripted model makes. Its input must fit the schema that a real model receives.

    `invalid: true` marks a call that breaks the schema on purpose, to test how the agent recovers.
    """

    tool: str
    input: Annotated[dict[str, Any], AfterValidator(_is_json)] = {}
    invalid: bool = False

    @model_validator(mode="after")
    def _fits_its_schema(self) -> "Call":
        faults = _schema_faults(self.tool, self.input)
        if faults and not self.invalid:
            raise ValueError(f"{faults}; if the mistake is meant, mark the call `invalid: true`")
        if self.invalid and not faults:
            raise ValueError(
                f"{self.tool}: the call is marked `invalid: true`, but its input fits the schema"
            )
        return self


class UsageOverride(_Part):
    """Token counts to report instead of the estimate."""

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None


class Turn(_Part):
    """One answer of the scripted model, or one failure."""

    name: str | None = None
    role: Role = "builder"  # whose calls it answers: the builder's or the judge's
    at: Count | Literal["any"] | None = None  # the position; absent: follows the turn before of this role
    match: Match | None = None
    capture: dict[str, Pattern] = {}
    # The answer.
    think: str | None = None
    say: str | None = None
    calls: tuple[Call, ...] = ()
    stop_reason: (
        Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal"] | None
    ) = None
    usage: UsageOverride = UsageOverride()
    repeat: PositiveInt = 1  # answers so many positions in a row
    # The speed of the answer.
    delay: Seconds = 0.0  # seconds before the first byte
    chunk: PositiveInt = 40  # characters in one delta
    pause: Seconds = 0.0  # seconds between two stream events
    # The failure.
    status: Annotated[int, Field(ge=400, le=599)] | None = None
    retry_after: Seconds | None = None
    error_type: str | None = None
    message: str | None = None
    cut_after: Count | None = None  # close the connection after so many stream events
    malformed_after: Count | None = None  # send an event that is not JSON after so many
    error_after: Count | None = None  # send an error event after so many
    once: bool | None = None  # only for the first request of this conversation; the default of a failure
    times: PositiveInt | None = None  # only for the first so many requests; replaces `once`

    @property
    def fails(self) -> bool:
        """Whether the turn produces a failure instead of a complete answer."""
        faults = (self.status, self.cut_after, self.malformed_after, self.error_after)
        return any(fault is not None for fault in faults)

    @property
    def limit(self) -> int | None:
        """How many requests with the same conversation the turn answers. After that, a later turn must fit. None means
        all.
        """
        if self.times is not None:
            return self.times
        return 1 if self.once or (self.once is None and self.fails) else None

    @model_validator(mode="after")
    def _makes_sense(self) -> "Turn":
        answers = bool(self.think or self.say or self.calls)
        if self.status is None and not answers:
            raise ValueError(
                "it answers nothing: give it `say`, `calls` or `think`, or a `status` to fail with"
            )
        if self.status is not None and answers:
            raise ValueError("it has a `status` and an answer too: a failed request has no content")
        if self.once is not None and self.times is not None:
            raise ValueError("`once` and `times` are two words for one thing: give one")
        return self


class Scenario(_Part):
    """The contents of a scenario file."""

    name: str
    context_tokens: PositiveInt | None = None  # a smaller context than that of the model
    # Placeholder → pattern, searched in the system prompt and the conversation.
    capture: dict[str, Pattern] = {}
    turns: Annotated[tuple[Turn, ...], Field(min_length=1)]

    _lines: tuple[int, ...] = ()

    def positioned(self) -> "Iterator[PositionedTurn]":
        """Yield every turn with its positions, in the order of the file."""
        positions: dict[Role, int] = {}
        for index, turn in enumerate(self.turns):
            line = self._lines[index] if index < len(self._lines) else None
            if turn.at == "any":
                yield PositionedTurn(turn, index + 1, line, None)
                continue
            start = positions.get(turn.role, 0) if turn.at is None else turn.at
            yield PositionedTurn(turn, index + 1, line, range(start, start + turn.repeat))
            positions[turn.role] = start if turn.fails else start + turn.repeat


class PositionedTurn:
    """A turn with its number and line in the file, and the positions that it answers. None means every position."""

    def __init__(self, turn: Turn, number: int, line: int | None, positions: range | None) -> None:
        self.turn = turn
        self.number = number
        self.line = line
        self.positions = positions

    @property
    def label(self) -> str:
        """The number, name and line of the turn, for error messages."""
        name = f" '{self.turn.name}'" if self.turn.name else ""
        return f"turn {self.number}{name}" + (f" (line {self.line})" if self.line else "")


def load_scenario(path: Path | None) -> Scenario:
    """Load a scenario file, or the built-in scenario when `path` is None. Raises BadScenario."""
    if path is None:
        return parse_scenario(
            (files(__package__) / "default.yaml").read_text(encoding="utf-8"), source="the built-in scenario"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadScenario(
            f"scenario {path} cannot be read: {getattr(error, 'strerror', None) or error}",
            hint="--scenario takes a YAML file; examples/scenarios has some",
        ) from error
    return parse_scenario(text, source=str(path))


def parse_scenario(text: str, *, source: str = "scenario") -> Scenario:
    """Parse the YAML text of a scenario. `source` names it in errors.

    Raises BadScenario, which names the turn, line and field of each mistake.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadScenario(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise BadScenario(f"{source} is nested too deeply") from None
    for name, line in _given_twice(root):
        raise BadScenario(f"{source}: line {line}: {name} is given twice: only one of them would count")
    lines = tuple(_turn_lines(root))
    try:
        scenario = Scenario.model_validate(value)
    except ValidationError as error:
        faults = "; ".join(_fault(detail["loc"], detail["msg"], lines) for detail in error.errors())
        raise BadScenario(
            f"{source}: {faults}", hint="the README of nightshift-devstack describes the format"
        ) from error
    scenario._lines = lines
    return scenario


def _turn_lines(root: yaml.Node | None) -> Iterator[int]:
    if isinstance(root, yaml.MappingNode):
        for key, node in root.value:
            if key.value == "turns" and isinstance(node, yaml.SequenceNode):
                yield from (turn.start_mark.line + 1 for turn in node.value)


def _given_twice(root: yaml.Node | None) -> Iterator[tuple[str, int]]:
    """Yield keys that occur twice in a mapping, with their lines. The YAML parser would silently keep the last one."""
    waiting, known = [root], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in known:  # an alias of a node that was visited
            continue
        known.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            names = set[str]()
            for key, value in node.value:
                waiting.append(value)
                if isinstance(key, yaml.ScalarNode):
                    if key.value in names:
                        yield key.value, key.start_mark.line + 1
                    names.add(key.value)


def _fault(loc: tuple[int | str, ...], message: str, lines: tuple[int, ...]) -> str:
    message = _plain(message)
    if len(loc) >= 2 and loc[0] == "turns" and isinstance(loc[1], int):
        line = f" (line {lines[loc[1]]})" if loc[1] < len(lines) else ""
        field = ".".join(str(one) for one in loc[2:])
        return f"turn {loc[1] + 1}{line}: " + (f"{field}: {message}" if field else message)
    return f"{'.'.join(str(one) for one in loc) or 'the file'}: {message}"
