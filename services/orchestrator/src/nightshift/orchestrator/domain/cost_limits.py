"""Decides when money stops a build until a person answers.

That is at the build's own limit, and when the account's daily budget cannot pay the next call on any day.
"""

from nightshift.orchestrator.domain.commands import Escalate
from nightshift.orchestrator.domain.state import BuildState

_BUILD_LIMIT = (
    "The build has cost {spent} of its limit of {limit}, and its next call may cost up to {reserve}."
    " `nightshift limits {build} --cost AMOUNT` raises the limit."
)
_DAY_LIMIT = (
    "The next call may cost up to {reserve}, and account {account} can pay at most {most} in a day, so the build would"
    " never go on. It goes on by itself once `nightshift account budget {account} AMOUNT` has raised the budget. A"
    " build with tier economy costs less."
)
_RESERVED_FIRST = "No call was made: each call starts only when its worst case is reserved."


def over_build_limit(state: BuildState, reserve: int) -> Escalate | None:
    """Return the question to a person when the next call could exceed the build's own cost limit.

    Returns None when the build has no such limit, or when the call fits.
    """
    limit = state.request.cost_limit_microusd
    if limit is None or state.funds.spent + reserve <= limit:
        return None
    detail = _BUILD_LIMIT.format(
        spent=_dollars(state.funds.spent),
        limit=_dollars(limit),
        reserve=_dollars(reserve),
        build=state.request.build_id,
    )
    return Escalate("cost_limit", detail, _RESERVED_FIRST, ("continue", "finish", "end"))


def over_day_limit(state: BuildState, reserve: int) -> Escalate | None:
    """Return the question to a person when the next call could cost more than the account can pay on any day.

    Returns None when a day can pay the call, or when it is not known what a day can pay.
    """
    most = state.funds.day_most
    if most is None or reserve <= most:
        return None
    detail = _DAY_LIMIT.format(
        reserve=_dollars(reserve), account=state.request.account_id, most=_dollars(most)
    )
    return Escalate("day_limit", detail, _RESERVED_FIRST, ("continue", "end"))


def raised(state: BuildState, *, turns: int, few: bool) -> int | None:
    """Return the build's cost limit, raised by the cost of its next call and of `turns` more turns.

    Unless `few`, the limit also at least doubles. Returns the limit unchanged when the build did not stop at it, and
    None when the build has no limit.
    """
    limit, spent = state.request.cost_limit_microusd, state.funds.spent
    if limit is None or all(question.kind != "cost_limit" for question in state.questions):
        return limit
    average = spent // max(state.conversation.turn, 1)
    # The next call may cost more than the last one, because the conversation has grown.
    room = 2 * state.funds.needs + turns * average
    return max(limit, spent) + (room if few else max(room, limit))


def _dollars(microusd: int) -> str:
    return f"${microusd / 1_000_000:.2f}"
