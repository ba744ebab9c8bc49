"""The tool open_port: opens a preview, and waits until it answers HTTP from outside."""

import asyncio

from nightshift.contracts.tools import OpenPort
from nightshift.sandbox_gateway.domain.call_outcome import CallOutcome, ErrorKind
from nightshift.sandbox_gateway.ports import PreviewProbe
from nightshift.sandbox_gateway.usecases.tools.context import Context
from nightshift.sandboxes.errors import PortRefused

_EVERY_S = 0.2
_MOST_S = 60.0


async def open_port(ctx: Context, ask: OpenPort, probe: PreviewProbe) -> CallOutcome:
    deadline = asyncio.get_running_loop().time() + min(ctx.timeout_s, _MOST_S)
    while True:
        try:
            url = await ctx.sandbox.open_port(ask.port)
        except PortRefused as error:
            problem, status = f"{error}", None
        else:
            target = url.rstrip("/") + ask.path
            problem, status = f"nothing answers over HTTP on port {ask.port}", await probe.status(target)
        if status is not None:
            kind: ErrorKind | None = "exit" if status >= 400 else None
            link = ctx.link(ask.port)
            shown = target if link is None else link.rstrip("/") + ask.path
            return CallOutcome(f"{shown} answers with status {status}", kind, preview=(ask.port, shown))
        if ctx.cancelled.is_set() or asyncio.get_running_loop().time() > deadline:
            return CallOutcome(
                f"{problem}. Is a server running in the background, and does it"
                f" listen on 127.0.0.1:{ask.port} or 0.0.0.0:{ask.port}?",
                "tool",
            )
        await asyncio.sleep(_EVERY_S)
