"""`nightshift answer`: answers a question of a build."""

from collections.abc import Sequence
from pathlib import Path

import cyclopts

from nightshift.cli.build_status import BuildStatus
from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json
from nightshift.cli.errors import WrongUsage
from nightshift.cli.output import write_result
from nightshift.cli.producer import checked, send
from nightshift.cli.questions import APPROVAL, Question
from nightshift.cli.to_build import status_of_open
from nightshift.contracts.events.requests import BuildAnswerGiven, ToolCallResultGiven
from nightshift.eventlog.errors import NotFound, Refused

app = cyclopts.App(name="answer")


@app.default
async def answer(
    build: BuildId, *words: str, option: str | None = None, home: Home = DEFAULT_HOME, json: Json = False
) -> None:
    """Answer a question of a build. The build continues with the answer.

    For example:

        nightshift answer build-4f1c2a "Blue, as in the logo."

        nightshift answer build-4f1c2a build-4f1c2a/3/0 --option blue

    Args:
        words: The question's id, which may be left out when the build asks one question, and the text of the answer.
            The id of a call of your own tool sends the text as its result.
        option: One of the options of the question.
    """
    status = await status_of_open(home, build)
    if words and (call := status.asked.get(words[0])) is not None and call.purpose == "customer":
        await _give_result(home, build, words, as_json=json)
        return
    question, text = chosen(status, words)
    if option is None and text is None:
        raise WrongUsage("there is no answer", hint=question.action.strip("`"))
    if option is not None and option not in question.options:
        options = ", ".join(question.options) or "no options; give a text"
        raise Refused(f"{option!r} is not an option of {question.question_id}", hint=f"it has {options}")
    fields = {
        "build_id": build,
        "question_id": question.question_id,
        "option": option,
        "text": text,
    }
    request = checked(BuildAnswerGiven, fields)
    await send(home, request)
    result = {"build_id": build, "requested": "answer", "question_id": question.question_id}
    write_result(result, f"answered; `nightshift watch {build}` shows it go on", as_json=json)


async def _give_result(home: Path, build: str, words: Sequence[str], *, as_json: bool) -> None:
    """Sends the result of a call of a customer's tool, in place of the customer's consumer.

    Raises WrongUsage unless `words` are the call's id and one text.
    """
    if len(words) != 2:
        raise WrongUsage("the result is one text", hint=f'`nightshift answer {build} {words[0]} "RESULT"`')
    request = checked(ToolCallResultGiven, {"build_id": build, "call_id": words[0], "output": words[1]})
    await send(home, request)
    result = {"build_id": build, "requested": "answer", "question_id": words[0]}
    write_result(result, f"answered; `nightshift watch {build}` shows it go on", as_json=as_json)


def chosen(status: BuildStatus, words: Sequence[str]) -> tuple[Question, str | None]:
    """Returns the question whose id `words` begin with, and the text of the answer (None without a text).

    Without an id, that is the only open question. Raises NotFound when no question is open, and WrongUsage when the
    words are unclear.
    """
    open_ = {key: one for key, one in status.questions.items() if one.kind != APPROVAL}
    if words and (approval := status.questions.get(words[0])) is not None and words[0] not in open_:
        raise WrongUsage(f"{words[0]} waits for an approval", hint=approval.action)
    if not open_:
        raise NotFound(
            f"build {status.build_id} asks nothing",
            hint=f"`nightshift tell {status.build_id} TEXT` sends a message",
        )
    rest = list(words)
    if rest and rest[0] in open_:
        question = open_[rest.pop(0)]
    elif len(open_) == 1 and len(rest) < 2:
        [question] = open_.values()
    else:
        raise WrongUsage("which question?", hint=f"name one of {', '.join(open_)}")
    if len(rest) > 1:
        raise WrongUsage("the answer is one text", hint="put it in quotes")
    return question, rest[0] if rest else None
