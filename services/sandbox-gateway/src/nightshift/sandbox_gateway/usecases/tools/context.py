"""The values that every tool receives in addition to its input."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from nightshift.sandbox_gateway.usecases.failpoints import FailPoints
from nightshift.sandboxes.port import Sandbox


@dataclass(frozen=True, slots=True)
class Context:
    """The values that every tool receives in addition to its input.

    - `env`: the environment variables of commands, with placeholders for secrets.
    - `cancelled`: set when the build has ended.
    - `watch()`: a context manager. It appends `sandbox.stalled` when the sandbox does not answer for several seconds.
    - `link`: returns the signed URL of a port's preview. Returns None when previews have the URLs of the sandbox
      driver.
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
