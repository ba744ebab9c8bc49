"""Tells the agent how many turns and tool calls, and how much money, are left.

A line about these stays in the conversation for good, because each request must begin with the request before. So a
line is added only when another tenth of a limit is used, only a few are left, or a limit was raised.
"""

from nightshift.orchestrator.domain import funds
from nightshift.orchestrator.domain.state import BuildState

#: When this many turns or tool calls are left, the agent is told about each.
_LAST = 5
_PARTS = 10


def limits_left(state: BuildState, turn: int) -> str:
    """Return a line of text with the turns after `turn`, the tool calls and the money that are left."""
    turns, calls, money = _left(state, turn)
    parts = [f"Turns left: {turns}.", f"Tool calls left: {calls}."]
    if money is not None:
        parts.append(f"Money left today: ${money / 1_000_000:.2f}.")
    return f"[{' '.join(parts)}]"


def levels(state: BuildState, turn: int) -> tuple[int, ...]:
    """Return the turns, tool calls and money that are left as coarse numbers, such as tenths of each limit.

    When these numbers change, the agent should be told what is left.
    """
    turns, calls, money = _left(state, turn)
    found = [_level(turns, state.request.turn_limit), _level(calls, state.request.tool_call_limit)]
    if money is not None:
        day = state.funds.day_limit
        found.append(money.bit_length() if not day else -(-_PARTS * money // day))
    return tuple(found)


def _left(state: BuildState, turn: int) -> tuple[int, int, int | None]:
    accepted = state.request
    money = None if state.funds.day is None else state.funds.day_left + funds.left(state.funds)
    if money is not None and accepted.cost_limit_microusd is not None:
        money = min(money, max(accepted.cost_limit_microusd - state.funds.spent, 0))
    return (
        max(accepted.turn_limit - turn, 0),
        max(accepted.tool_call_limit - state.tool_calls_made, 0),
        money,
    )


def _level(left: int, limit: int) -> int:
    """Return how many tenths of `limit` are left, rounded up: a number from 1 to 10.

    With five left or fewer it counts each one: 0 for five left, -5 for none. The agent is told when the level changes.
    """
    return left - _LAST if left <= _LAST else -(-_PARTS * left // max(limit, 1))
