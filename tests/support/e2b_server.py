"""A local server of E2B's protocol: the control plane and envd on one port, each sandbox a local bubblewrap one.

It speaks as much as the SDK's calls of our driver need, over HTTP/1.1: JSON, octet-stream files with chunked bodies,
Connect RPC with JSON (unary and server streams), and previews under `/<port>-<sandbox id>/`. Faults are queued with
`fail`, sandboxes vanish with `vanish`.
"""

import asyncio
import base64
import json
import re
import socket
import struct
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit
from uuid import uuid4

import h11
import httpx

from nightshift.sandboxes.client import AgentSandbox
from nightshift.sandboxes.errors import SandboxGone, SandboxUnavailable
from nightshift.sandboxes.local.driver import LocalDriver
from nightshift.sandboxes.local.settings import LocalSettings
from nightshift.sandboxes.port import CallSpec

_PREVIEW = re.compile(r"/(\d+)-([^/]+)(/.*)")
_NOT_FOUND = (404, {"code": 404, "message": "sandbox not found"})


@dataclass
class Box:
    sandbox: AgentSandbox
    home: Path
    metadata: dict[str, str]
    paused: bool = False
    calls: int = 0
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    def tell(self) -> dict[str, Any]:
        return {
            "templateID": "base",
            "sandboxID": self.sandbox.id,
            "clientID": "local",
            "envdVersion": "0.6.7",
            "metadata": self.metadata,
            "state": "paused" if self.paused else "running",
            "startedAt": self.started.isoformat(),
            "endAt": (self.started + timedelta(hours=1)).isoformat(),
            "cpuCount": 1,
            "memoryMB": 512,
            "diskSizeMB": 1024,
        }


class E2BServer:
    """An async context manager; `url` is both the API's and the sandboxes' address."""

    def __init__(self, state_dir: Path) -> None:
        self.driver = LocalDriver(LocalSettings(state_dir, owner="e2b-server"))
        self.state_dir = state_dir
        self.boxes: dict[str, Box] = {}
        self.creates = 0
        self.requests: list[str] = []
        self._keys: dict[str, str] = {}
        self._faults: dict[str, deque[int]] = {}
        self._refusals: dict[str, tuple[int, str]] = {}

    async def __aenter__(self) -> "E2BServer":
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for box in self.boxes.values():
            await box.sandbox.kill()

    def fail(self, what: str, *statuses: int) -> None:
        """Answer the next calls of `what` (`create`, `list`) with these. 5xx comes after the work was done."""
        self._faults.setdefault(what, deque()).extend(statuses)

    def refuse(self, what: str, status: int, message: str) -> None:
        """Answer every call of `what` with this status from now on, before anything is done."""
        self._refusals[what] = (status, message)

    async def vanish(self, sandbox_id: str) -> None:
        """End a sandbox as the provider sometimes does, without a word."""
        await self.boxes.pop(sandbox_id).sandbox.kill()

    def _fault(self, what: str) -> int | None:
        waiting = self._faults.get(what)
        return waiting.popleft() if waiting else None

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = h11.Connection(h11.SERVER)
        try:
            while True:
                request, body = await _read(connection, reader)
                if request is None:
                    return
                await self._answer(_Exchange(connection, writer, request, body))
                if connection.our_state is h11.MUST_CLOSE:
                    return
                connection.start_next_cycle()
        except (asyncio.CancelledError, ConnectionError, SandboxGone, SandboxUnavailable, h11.ProtocolError):
            pass
        finally:
            writer.close()

    async def _answer(self, ex: "_Exchange") -> None:
        self.requests.append(f"{ex.method} {ex.path}")
        box = self.boxes.get(ex.headers.get("e2b-sandbox-id", ""))
        if preview := _PREVIEW.fullmatch(ex.path):
            await self._preview(ex, int(preview[1]), self.boxes.get(preview[2]), preview[3])
        elif ex.path.startswith(("/sandboxes", "/v2/sandboxes", "/v3/sandboxes")):
            await self._control(ex, ex.path.split("/sandboxes", 1)[1].strip("/").split("/"))
        elif box is None or box.paused or not await box.sandbox.alive():
            await ex.json(502, {"code": 502, "message": "The sandbox was not found"})
        elif ex.path == "/health":
            await ex.send(204, b"")
        elif ex.path == "/files":
            await self._files(ex, box)
        elif ex.path == "/process.Process/Start":
            await self._start(ex, box)
        elif ex.path == "/filesystem.Filesystem/Remove":
            await self._run(box, 'rm -rf -- "$1"', json.loads(ex.body)["path"])
            await ex.json(200, {})
        else:
            await ex.json(404, {"code": "unimplemented", "message": ex.path})

    async def _preview(self, ex: "_Exchange", port: int, box: Box | None, path: str) -> None:
        """What the provider's proxy does for a visitor; a 502 when nothing listens inside."""
        if box is None or box.paused:
            await ex.json(502, {"code": 502, "message": "The sandbox was not found"})
            return
        try:
            url = (await box.sandbox.open_port(port)).rstrip("/") + path
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.request(ex.method, url, params=ex.query, content=ex.body)
        except (SandboxGone, httpx.HTTPError) as error:
            await ex.json(502, {"code": 502, "message": f"The port is not open: {error}"})
        else:
            kind = answer.headers.get("content-type", "text/plain")
            await ex.send(answer.status_code, answer.content, {"Content-Type": kind})

    async def _control(self, ex: "_Exchange", parts: list[str]) -> None:
        match ex.method, [part for part in parts if part]:
            case "POST", []:
                await self._create(ex)
            case "GET", []:
                await self._list(ex)
            case method, [sandbox_id, *rest]:
                box = self.boxes.get(sandbox_id)
                if box is None:
                    await ex.json(*_NOT_FOUND)
                else:
                    await self._one(ex, box, method, rest[0] if rest else "")

    async def _create(self, ex: "_Exchange") -> None:
        if "create" in self._refusals:
            refused, message = self._refusals["create"]
            await ex.json(refused, {"code": refused, "message": message})
            return
        status = self._fault("create")
        if status == 429:
            await ex.json(429, {"code": 429, "message": "too many"}, {"Retry-After": "0"})
            return
        key = ex.headers.get("idempotency-key", "")
        if key not in self._keys or self._keys[key] not in self.boxes:
            self.creates += 1
            sandbox = await self.driver.create(f"e2b-{self.creates}", generation=0)
            home = self.state_dir / sandbox.id / "home"
            self.boxes[sandbox.id] = Box(sandbox, home, json.loads(ex.body).get("metadata", {}))
            self._keys[key] = sandbox.id
        if status is not None:
            await ex.json(status, {"code": status, "message": "oops"}, {"Retry-After": "0"})
        else:
            await ex.json(201, self.boxes[self._keys[key]].tell())

    async def _list(self, ex: "_Exchange") -> None:
        if (status := self._fault("list")) is not None:
            await ex.json(status, {"code": status, "message": "oops"}, {"Retry-After": "0"})
            return
        wanted = dict(parse_qsl(ex.query.get("metadata", "")))
        found = [
            box.tell()
            for box in self.boxes.values()
            if wanted.items() <= box.metadata.items() and await box.sandbox.alive()
        ]
        start = int(ex.query.get("nextToken") or 0)
        headers = {"X-Next-Token": str(start + 2)} if start + 2 < len(found) else {}
        await ex.json(200, found[start : start + 2], headers)  # small pages: the driver must turn them

    async def _one(self, ex: "_Exchange", box: Box, method: str, what: str) -> None:
        match method, what:
            case "GET", "":
                await ex.json(200, box.tell())
            case "DELETE", "":
                await box.sandbox.kill()
                del self.boxes[box.sandbox.id]
                await ex.send(204, b"")
            case "POST", "connect" | "resume":
                resumed = box.paused
                if resumed:
                    await box.sandbox.resume_all()
                    box.paused = False
                await ex.json(201 if resumed else 200, box.tell())
            case "POST", "pause":
                await box.sandbox.pause_all()
                box.paused = True
                await ex.send(204, b"")
            case "POST", "timeout":
                await ex.send(204, b"")
            case _:
                await ex.json(*_NOT_FOUND)

    async def _files(self, ex: "_Exchange", box: Box) -> None:
        """Runs inside, as the sandbox's user: a path may lead through symlinks that commands have made."""
        path = ex.query["path"]
        if ex.method == "POST":
            upload = f".envd-{uuid4().hex}"
            await box.sandbox.write_file(upload, ex.body)
            status, _ = await self._run(
                box, 'mkdir -p "$(dirname "$1")" && mv -T "$2" "$1"', path, f"workspace/{upload}"
            )
            if status != 0:
                await box.sandbox.remove(upload)
                await ex.json(500, {"code": 500, "message": f"error opening file: {path}"})
            else:
                await ex.json(200, [{"name": Path(path).name, "type": "file", "path": path}])
            return
        status, body = await self._run(box, 'cat -- "$1"', path)
        if status == 0:
            await ex.send(200, body, {"Content-Type": "application/octet-stream"})
        else:
            await ex.json(404, {"code": 404, "message": "path not found"})

    async def _run(self, box: Box, script: str, *arguments: str) -> tuple[int | None, bytes]:
        box.calls += 1
        call_id = f"envd/{box.calls}/0"
        command = ["bash", "-c", script, "bash", *arguments]
        await box.sandbox.start_call(CallSpec(call_id, command, cwd="/home/user", output_limit=256 << 20))
        status = await box.sandbox.wait_call(call_id, wait_s=600)
        return status.exit_code, await box.sandbox.read_output(call_id, "out", limit=256 << 20)

    async def _start(self, ex: "_Exchange", box: Box) -> None:
        asked = json.loads(ex.body[5:])["process"]
        box.calls += 1
        call_id = f"envd/{box.calls}/0"
        await ex.head(200, {"Content-Type": "application/connect+json"})
        await box.sandbox.start_call(
            CallSpec(
                call_id,
                [asked["cmd"], *asked.get("args", [])],
                cwd=asked.get("cwd", "/home/user"),
                env=asked.get("envs", {}),
                timeout_s=None,
            )
        )
        await ex.frame({"event": {"start": {"pid": box.calls}}})
        status = await box.sandbox.wait_call(call_id, wait_s=600)
        for stream, name in (("out", "stdout"), ("err", "stderr")):
            data = await box.sandbox.read_output(call_id, stream, limit=16 << 20)
            if data:
                await ex.frame({"event": {"data": {name: base64.b64encode(data).decode()}}})
        code = status.exit_code or 0
        end = {"exitCode": code, "exited": True, "status": f"exit status {code}"}
        await ex.frame({"event": {"end": end}})
        await ex.frame({}, flag=2)
        await ex.end()


async def _read(connection: h11.Connection, reader: asyncio.StreamReader) -> tuple[h11.Request | None, bytes]:
    request, body = None, bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return request, bytes(body)
        else:
            return None, b""


class _Exchange:
    def __init__(
        self, connection: h11.Connection, writer: asyncio.StreamWriter, request: h11.Request, body: bytes
    ) -> None:
        url = urlsplit(request.target.decode())
        self.method, self.path, self.body = request.method.decode(), url.path, body
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.headers = {name.decode().lower(): value.decode() for name, value in request.headers}
        self._connection, self._writer = connection, writer

    async def json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        await self.send(
            status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})}
        )

    async def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        await self.head(
            status, {**(headers or {}), **({"Content-Length": str(len(body))} if status != 204 else {})}
        )
        if body:
            await self._write(h11.Data(data=body))
        await self.end()

    async def head(self, status: int, headers: dict[str, str]) -> None:
        await self._write(h11.Response(status_code=status, headers=list(headers.items())))

    async def frame(self, value: Any, *, flag: int = 0) -> None:
        body = json.dumps(value).encode()
        await self._write(h11.Data(data=struct.pack(">BI", flag, len(body)) + body))

    async def end(self) -> None:
        await self._write(h11.EndOfMessage())

    async def _write(self, event: h11.Event) -> None:
        self._writer.write(self._connection.send(event) or b"")
        await self._writer.drain()
