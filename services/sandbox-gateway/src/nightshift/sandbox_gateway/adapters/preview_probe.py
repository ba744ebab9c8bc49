"""Asks a preview for its HTTP status, to test whether it answers. Only this module imports httpx."""

from types import TracebackType
from typing import Self

import httpx

_TIMEOUT_S = 5.0


class HttpPreviewProbe:
    """Asks previews for their HTTP status with httpx, as the port PreviewProbe describes. Use it as an async context
    manager.
    """

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def status(self, url: str) -> int | None:
        """Return the HTTP status of a GET request, or None when no HTTP server answers.

        Does not read the body, which may be hostile.
        """
        try:
            async with self._client.stream("GET", url) as response:
                return response.status_code
        except (httpx.HTTPError, httpx.InvalidURL):
            return None
