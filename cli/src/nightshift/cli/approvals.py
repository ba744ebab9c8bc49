"""Shared by `approve` and `deny`: finds the tool calls that the words of the command mean, and sends the decision."""

from collections.abc import Sequence
from pathlib import Path

from nightshift.cli.build_status import BuildStatus
from nightshift.cli.errors import WrongUsage
from nightshift.cli.output import write_result
from nightshift.cli.producer import checked, send
from nightshift.cli.questions import APPROVAL, Question
from nightshift.cli.to_build import status_of_open
from nightshift.contracts.events.requests import ToolCallApprovalGiven
from nightshift.eventlog.errors import NotFound


async def decide(
    home: Path, build_id: str, words: Sequence[str], *, approved: bool, every: bool, as_json: bool
) -> None:
    """Approves or denies tool calls of a build that wait for a person.

    `words` are a call's id, which may be left out when one call waits, and a comment. If `every`, decides about each
    call that waits. Raises NotFound when no call waits, and WrongUsage when the words are unclear.
    """
    calls, comment = chosen(await status_of_open(home, build_id), words, every=every)
    for one in calls:
        fields = {
            "build_id": build_id,
            "call_id": one.question_id,
            "approved": approved,
            "comment": comment,
        }
        await send(home, checked(ToolCallApprovalGiven, fields))
    how = "approved" if approved else "denied"
    result = {"build_id": build_id, "requested": how, "calls": [one.question_id for one in calls]}
    which = ", ".join(one.question_id for one in calls)
    write_result(result, f"{how} {which}; `nightshift watch {build_id}` shows it go on", as_json=as_json)


def chosen(status: BuildStatus, words: Sequence[str], *, every: bool) -> tuple[list[Question], str | None]:
    """Returns the waiting tool calls that `words` name, and the comment, which is None when `words` have none.

    Without an id, that is the only call that waits. If `every`, returns all of them. Raises NotFound when none waits,
    and WrongUsage when the choice is unclear.
    """
    waiting = {key: one for key, one in status.questions.items() if one.kind == APPROVAL}
    if not waiting:
        raise NotFound(
            f"no tool call of build {status.build_id} waits for an approval",
            hint="`nightshift questions` lists what waits for you",
        )
    rest = list(words)
    if rest and rest[0] in waiting:
        calls = [waiting[rest.pop(0)]]
    elif every or len(waiting) == 1:
        calls = list(waiting.values())
    else:
        raise WrongUsage("which call?", hint=f"name one of {', '.join(waiting)}, or give --all")
    if len(rest) > 1:
        raise WrongUsage("the comment is one text", hint="put it in quotes")
    return calls, rest[0] if rest else None
