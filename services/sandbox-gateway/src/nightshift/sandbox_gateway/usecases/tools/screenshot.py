"""The tool take_screenshot. Chromium in the sandbox takes pictures of a web page that a server in the same sandbox
serves.
"""

import base64
import json
from functools import cache
from pathlib import Path
from typing import Any, Final

from nightshift.contracts.tools import TakeScreenshot
from nightshift.sandbox_gateway.domain import images
from nightshift.sandbox_gateway.domain.call_outcome import CallOutcome
from nightshift.sandbox_gateway.domain.text import printable
from nightshift.sandbox_gateway.usecases.tools.bash import output_of, run_once
from nightshift.sandbox_gateway.usecases.tools.context import Context
from nightshift.sandboxes.port import CallSpec

#: The sizes of the pictures: a desktop and a phone.
SIZES: Final = ("1280x800", "390x844")
_MOST_S = 120.0
_NO_BROWSER = 3
#: The most bytes of the script's output, which has both pictures in base64.
_OUTPUT_BYTES = 12 * 1024 * 1024


@cache
def _script() -> str:
    return Path(__file__).with_name("browser_script.py").read_text(encoding="utf-8")


async def take_screenshot(ctx: Context, ask: TakeScreenshot) -> CallOutcome:
    """Take the pictures of the page, once for each call. The script's whole output is checked, because commands in the
    sandbox can forge it.
    """
    url = f"http://localhost:{ask.port}{ask.path}"
    spec = CallSpec(
        ctx.call_id,
        ("python3", "-c", _script(), url, *SIZES),
        env=ctx.env,
        timeout_s=min(_MOST_S, ctx.timeout_s),
        output_limit=_OUTPUT_BYTES,
    )
    done = await run_once(ctx, spec)
    if done.timed_out:
        return CallOutcome(f"{url} could not be shown within {spec.timeout_s:g} s", "timeout")
    if done.stopped:
        return CallOutcome("[stopped]", "cancelled")
    if done.exit_code == _NO_BROWSER:
        return CallOutcome(
            "This sandbox has no Chromium, so no picture can be taken. Check the page with curl, or with tests.",
            "tool",
        )
    if done.exit_code != 0:
        said = (await output_of(ctx, ctx.call_id, done)).removeprefix("[stderr]\n")
        return CallOutcome(f"no picture was taken: {said.splitlines()[-1] if said else 'no message'}", "tool")
    out = done.output[0] if done.output is not None else None
    return _outcome(url, out or await ctx.sandbox.read_output(ctx.call_id, "out", limit=_OUTPUT_BYTES))


def _outcome(url: str, out: bytes) -> CallOutcome:
    try:
        pictures = [_picture(url, one) for one in json.loads(out)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return CallOutcome("no picture was taken: the answer of the browser cannot be read", "tool")
    blocks = tuple(block for _, shown in pictures for block in shown)
    return CallOutcome("\n".join(text for text, _ in pictures), blocks=blocks)


def _picture(url: str, one: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """Return the text and the blocks of one picture.

    Raises ValueError, KeyError or TypeError for an incomplete picture.
    """
    data = base64.b64decode(one["image"], validate=True)
    image = images.recognise(data, len(data))
    if image is None or image.problem is not None:
        raise ValueError("no image")
    notes = [f"{url} at {image.width}×{image.height}: status {one['status']}"]
    notes += [] if one["loaded"] else ["the page was still loading"]
    notes += [f"- {message}" for message in one["messages"]]
    text = printable("\n".join(notes))
    source = {
        "type": "base64",
        "media_type": image.media_type,
        "data": base64.b64encode(data).decode("ascii"),
    }
    return text, [{"type": "text", "text": text}, {"type": "image", "source": source}]
