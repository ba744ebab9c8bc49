"""An HTTP server that answers each request with the next of given statuses and keeps the requests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Request:
    """A request that the server received."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class HttpAnswers:
    """The statuses to answer with and the requests received so far. `code` is the S3 error code of an error."""

    statuses: list[int]
    code: str
    endpoint: str = ""
    requests: list[Request] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the requests of one connection."""
        try:
            while line := (await reader.readline()).decode().strip():
                headers = {}
                while header := (await reader.readline()).decode().strip():
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                if headers.get("expect") == "100-continue":
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append(Request(line, headers, body))
                # The server repeats the last status.
                status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
                text = b"" if status == 200 else f"<Error><Code>{self.code}</Code></Error>".encode()
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(text), text))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def answering(*statuses: int, code: str = "Busy") -> AsyncIterator[HttpAnswers]:
    """Serves on a free port. `code` is the S3 error code in the body of every answer that is not a 200."""
    answers = HttpAnswers(list(statuses), code)
    server = await asyncio.start_server(answers.serve, "127.0.0.1", 0)
    answers.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield answers
    finally:
        server.close()
        await server.wait_closed()
