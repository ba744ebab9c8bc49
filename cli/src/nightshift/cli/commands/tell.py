"""`nightshift tell`: sends a message to the agent of a build."""

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json
from nightshift.cli.output import write_result
from nightshift.cli.producer import checked
from nightshift.cli.to_build import send_to_build
from nightshift.contracts.events.requests import BuildMessageSent

app = cyclopts.App(name="tell")


@app.default
async def tell(build: BuildId, message: str, *, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Send a message to the agent, which reads it in its next turn. A build that waits for an answer continues with it.

    For example:

        nightshift tell build-4f1c2a "Use the blue of our logo."

    Args:
        message: The message.
    """
    request = checked(BuildMessageSent, {"build_id": build, "message": message})
    await send_to_build(home, build, request)
    text = f"sent; `nightshift watch {build}` shows what the agent does"
    write_result({"build_id": build, "requested": "tell"}, text, as_json=json)
