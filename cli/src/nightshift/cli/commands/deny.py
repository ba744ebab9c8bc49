"""`nightshift deny`: denies a tool call that waits for a person."""

from typing import Annotated

import cyclopts

from nightshift.cli.approvals import decide
from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json

app = cyclopts.App(name="deny")


@app.default
async def deny(
    build: BuildId,
    *words: str,
    every: Annotated[bool, cyclopts.Parameter(name="--all", negative=())] = False,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Deny a tool call that waits for your approval. The agent gets your comment as the result of the call.

    For example:

        nightshift deny build-4f1c2a "Not before the tests pass."

        nightshift deny build-4f1c2a --all "Publish nothing tonight."

    Args:
        words: The call's id, which may be left out when one call waits, and a comment.
        every: Decide about each call of the build that waits.
    """
    await decide(home, build, words, approved=False, every=every, as_json=json)
