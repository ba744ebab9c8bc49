"""open_port: the preview. It is open when an HTTP answer came through it from outside."""

import asyncio
from typing import Protocol

from nightshift.contracts.tools import OpenPort
from nightshift.sandbox_gateway.domain.outcome import ErrorKind, Outcome
from nightshift.sandbox_gateway.usecases.tools.context import Context

_EVERY_S = 0.2
_MOST_S = 60.0


class Http(Protocol):
    async def status(self, url: str) -> int | None:
        """The status of a GET, none when nothing that speaks HTTP answered."""
        ...


async def open_port(ctx: Context, ask: OpenPort, http: Http) -> Outcome:
    url = await ctx.sandbox.open_port(ask.port)
    target = url.rstrip("/") + ask.path
    deadline = asyncio.get_running_loop().time() + min(ctx.timeout_s, _MOST_S)
    while (status := await http.status(target)) is None:
        if ctx.cancelled.is_set() or asyncio.get_running_loop().time() > deadline:
            return Outcome(
                f"nothing answers over HTTP on port {ask.port}. Is a server running in the background, and does it"
                f" listen on 127.0.0.1:{ask.port} or 0.0.0.0:{ask.port}?",
                "tool",
            )
        await asyncio.sleep(_EVERY_S)
    kind: ErrorKind | None = "exit" if status >= 400 else None
    return Outcome(f"{target} answers with status {status}", kind, preview=(ask.port, url))
