"""The embedded S3 server: localbucket, which stores a bucket as a folder.

It checks no signatures, so it listens only on loopback.
"""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

from nightshift.devstack.child import Child, ChildSpec
from nightshift.devstack.parts.ready import start_ready
from nightshift.devstack.ports import LOOPBACK

DEFAULT_BUCKET = "nightshift"


@dataclass(frozen=True, slots=True)
class S3Address:
    """The endpoint, bucket, keys and region of an object store."""

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"


class EmbeddedS3:
    """The embedded S3 server on loopback. Its data folder stays between runs."""

    def __init__(
        self,
        data_dir: Path,
        log_dir: Path | None = None,
        *,
        port: int = 0,
        bucket: str = DEFAULT_BUCKET,
        timeout: float = 15.0,
    ) -> None:
        self._data = data_dir
        self._log = (log_dir or data_dir.parent) / "s3.log"
        self._port = port
        self._bucket = bucket
        self._timeout = timeout
        self._child: Child | None = None

    @property
    def child(self) -> Child:
        """The running server. Raises RuntimeError before the first start."""
        if self._child is None:
            raise RuntimeError("the object store is not started")
        return self._child

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self.child.pid

    @property
    def port(self) -> int:
        """The port of the server. Before the start it is the port to use, or 0 for any free port."""
        return self._port

    async def start(self) -> S3Address:
        """Create the bucket, start the server and wait until it answers over HTTP. Raises PartFailed or PortTaken."""
        await asyncio.to_thread((self._data / self._bucket).mkdir, parents=True, exist_ok=True)
        self._child, self._port = await start_ready(
            self._spec, _answers_http, port=self._port, timeout=self._timeout
        )
        return S3Address(f"http://{LOOPBACK}:{self._port}", self._bucket, "nightshift", "nightshift-local")

    async def stop(self) -> None:
        """Stop the server. The objects stay."""
        if self._child is not None:
            await self._child.stop(patience=2)

    def _spec(self, port: int) -> ChildSpec:
        argv = [sys.executable, "-m", "localbucket", str(self._data), "--host", LOOPBACK, "--port", str(port)]
        return ChildSpec("s3 (localbucket)", argv, self._log)


async def _answers_http(child: Child, port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(2):
            return (await reader.readline()).startswith(b"HTTP/1.1 ")
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
