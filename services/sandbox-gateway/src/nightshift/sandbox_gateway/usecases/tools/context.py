"""The parameters that every tool gets beside its input."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from nightshift.sandbox_gateway.usecases.failpoints import FailPoints
from nightshift.sandboxes.port import Sandbox


@dataclass(frozen=True, slots=True)
class Context:
    """`env` holds the build's secrets by name. `cancelled` is set when the build has ended.

    `link` returns the signed address of a port's preview, or None when previews have the driver's addresses.
    `watch()` reports the build when the sandbox does not answer within seconds in its block.
    """

    build_id: str
    call_id: str
    timeout_s: float
    sandbox: Sandbox
    env: Mapping[str, str]
    cancelled: asyncio.Event
    watch: Callable[[], AbstractAsyncContextManager[None]]
    fail: FailPoints
    link: Callable[[int], str | None] = lambda _port: None
