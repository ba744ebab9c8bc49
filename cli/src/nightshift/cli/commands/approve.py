"""`nightshift approve`: lets a tool call run that waits for a person."""

from typing import Annotated

import cyclopts

from nightshift.cli.approvals import decide
from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json

app = cyclopts.App(name="approve")


@app.default
async def approve(
    build: BuildId,
    *words: str,
    every: Annotated[bool, cyclopts.Parameter(name="--all", negative=())] = False,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Let a tool call run that waits for your approval. The agent reads your comment.

    For example:

        nightshift approve build-4f1c2a

        nightshift approve build-4f1c2a build-4f1c2a/3/0 "Only this once."

    Args:
        words: The call's id, which may be left out when one call waits, and a comment.
        every: Decide about each call of the build that waits.
    """
    await decide(home, build, words, approved=True, every=every, as_json=json)
