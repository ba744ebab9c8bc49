"""`nightshift fork`: starts new builds that continue another one from the end of a turn."""

from typing import Annotated
from uuid import uuid4

import cyclopts
from cyclopts.validators import Number

from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json
from nightshift.cli.moments import At, version_at
from nightshift.cli.output import note, write_json, write_line
from nightshift.cli.producer import checked, send
from nightshift.cli.queries import open_builds
from nightshift.contracts.events.build import BuildAccepted, CheckpointSaved
from nightshift.contracts.events.requests import BuildRequested, ForkPoint
from nightshift.eventlog.errors import NotFound, Refused
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.usecases.replay import check_turn

app = cyclopts.App(name="fork")

#: The fields that a fork does not take over from the request of the other build.
_OWN = frozenset({"build_id", "model", "models", "base_build_id", "at", "message", "deadline"})


@app.default
async def fork(
    build: BuildId,
    *,
    at: At,
    message: str | None = None,
    model: str | None = None,
    account: str | None = None,
    times: Annotated[int, cyclopts.Parameter(validator=Number(gte=1, lte=50))] = 1,
    build_id: str | None = None,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Start new builds from the conversation and the files of another build at the end of a turn.

    The other build is not changed. Each fork has its own sandbox, money and end, and `nightshift compare` sets them
    side by side.

    For example:

        nightshift fork build-4f1c2a --at turn:7 --message "Use SQLite in place of files"

        nightshift fork build-4f1c2a --at turn:7 --model claude-opus-4-8 --times 3

    Args:
        at: The turn to start from, such as turn:7. A version or a time means the last turn that had ended by then.
        message: A message that the agent of the fork reads first.
        model: The model of the fork. Default, that of the build. Another model gets no thinking of the first one.
        account: The account that pays. Default, that of the build.
        times: The number of forks, all alike.
        build_id: An id of your own; with --times, its beginning.
    """
    async with open_builds(home) as builds:
        events = await builds.events(build)
    turn = ended_turn(events, at)
    check_turn(events, turn)  # the orchestrator would refuse it later, unseen
    fields = forked_fields(events, turn)
    given = {"message": message, "model": model, "account_id": account}
    fields |= {name: value for name, value in given.items() if value is not None}
    first = build_id or f"build-{uuid4().hex[:12]}"
    requests = [
        checked(BuildRequested, {**fields, "build_id": first if times == 1 else f"{first}-{number}"})
        for number in range(1, times + 1)
    ]
    for request in requests:
        await send(home, request)
    if json:
        write_json([_sent(request) for request in requests])
        return
    for request in requests:
        write_line(request.build_id)
    note(
        f"sent; follow them with `nightshift watch`, then `nightshift compare {build} {requests[0].build_id} …`"
    )


def forked_fields(events: list[RecordedEvent], turn: int) -> dict[str, object]:
    """Returns the fields of a request for a fork: those of the other build's request, and where the fork starts."""
    accepted = events[0].data
    if not isinstance(accepted, BuildAccepted):
        raise Refused(f"{events[0].subject} does not begin with its acceptance")
    inherited = {name: getattr(accepted, name) for name in BuildRequested.model_fields if name not in _OWN}
    return {**inherited, "base_build_id": accepted.build_id, "at": ForkPoint(turn=turn)}


def ended_turn(events: list[RecordedEvent], at: str) -> int:
    """Returns the last turn that had ended at the moment `at`. The end of a build also ends its last turn.

    Raises NotFound when no turn had ended.
    """
    version = version_at(events, at)
    ended = [one.data.turn for one in events[:version] if isinstance(one.data, CheckpointSaved)]
    turns = [getattr(one.data, "turns", 0) for one in events[:version] if one.data.terminal]
    turn = max([*ended, *turns], default=0)
    if at.startswith("turn:") and turn < int(at.removeprefix("turn:")):
        raise NotFound(f"{at} of {events[0].subject} has not ended", hint=f"the last complete turn is {turn}")
    if not turn:
        raise NotFound(f"no turn of {events[0].subject} had ended at {at}")
    return turn


def _sent(request: BuildRequested) -> dict[str, object]:
    return {
        "build_id": request.build_id,
        "base_build_id": request.base_build_id,
        "turn": None if request.at is None else request.at.turn,
        "account_id": request.account_id,
        "model": request.model,
    }
