"""The control plane of the E2B server, and the proxy in front of its sandboxes, on one port.

Requests with the header `E2b-Sandbox-Id` go to the envd of that sandbox, and `/<port>-<sandbox id>/` to a port inside.
Tests queue faults with `fail`, refuse calls with `refuse`, and take sandboxes away with `vanish`.
"""

import asyncio
import json
import os
import re
import shutil
import socket
from collections import deque
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from e2b import AsyncSandbox
from tests.support.e2b_server.box import Box, start
from tests.support.e2b_server.envd.http import Exchange, forward, serve

_PREVIEW = re.compile(r"/(\d+)-([^/]+)(/.*)")
_ID = re.compile(r"[a-z0-9]+")
_GONE = "The sandbox was not found"


class E2BServer:
    """An async context manager; `url` is both the API's and the sandboxes' address.

    `disk_bytes` bounds each sandbox's home. `max_lifetime_s` is the most that the plan allows. `reference` is a program
    of E2B's own envd to run in place of the stand-in.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        disk_bytes: int | None = None,
        max_lifetime_s: int = 24 * 3600,
        reference: Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._address = (host, port)
        self.state_dir = state_dir
        self.boxes: dict[str, Box] = {}
        self.templates = {"base", "no-python"}
        self.creates = 0
        self.requests: list[str] = []
        self._disk_bytes, self._max_lifetime_s, self._reference = disk_bytes, max_lifetime_s, reference
        self._connections: set[asyncio.Task[None]] = set()
        self._keys: dict[str, str] = {}
        self._faults: dict[str, deque[int]] = {}
        self._refusals: dict[str, tuple[int, str]] = {}
        self._older: dict[str, Path] = {}

    async def __aenter__(self) -> "E2BServer":
        self._server = await asyncio.start_server(self._connection, *self._address)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        for box in list(self.boxes.values()):
            await box.kill()

    def fail(self, what: str, *statuses: int) -> None:
        """Answer the next calls of `what` (`create`, `list`, `connect`, `envd`) with these statuses.

        A create that is answered with 5xx has made its sandbox.
        """
        self._faults.setdefault(what, deque()).extend(statuses)

    def refuse(self, what: str, status: int, message: str) -> None:
        """Answer every call of `what` with this status from now on, before anything is done."""
        self._refusals[what] = (status, message)

    async def vanish(self, sandbox_id: str) -> None:
        """End a sandbox as the provider sometimes does, without a word."""
        await self.boxes.pop(sandbox_id).kill()

    async def forget_changes(self, sandbox_id: str) -> None:
        """From now on each resume of this sandbox brings back its present files, as E2B has done with older ones."""
        older = self._older[sandbox_id] = self.state_dir / f"{sandbox_id}-older"
        await asyncio.to_thread(shutil.copytree, self.boxes[sandbox_id].home, older, symlinks=True)

    async def run(self, sandbox_id: str, command: str) -> str:
        """Run a command inside with the provider's own client. Returns its standard output."""
        options = {"api_key": "e2b_" + "0" * 40, "api_url": self.url, "sandbox_url": self.url}
        sandbox = await AsyncSandbox.connect(sandbox_id, timeout=3600, **options)
        return (await sandbox.commands.run(command)).stdout

    def _fault(self, what: str) -> int | None:
        waiting = self._faults.get(what)
        return waiting.popleft() if waiting else None

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await serve(reader, writer, self._answer)
        finally:
            writer.close()

    async def _answer(self, ex: Exchange) -> None:
        self.requests.append(f"{ex.method} {ex.path}")
        if preview := _PREVIEW.fullmatch(ex.path):
            await self._preview(ex, int(preview[1]), self.boxes.get(preview[2]), preview[3])
        elif "e2b-sandbox-id" in ex.headers:
            box = self.boxes.get(ex.headers["e2b-sandbox-id"])
            if (status := self._fault("envd")) is not None:
                await ex.problem(status, "oops", {"Retry-After": "0"})
            elif box is None or box.paused or not box.alive:
                await ex.problem(502, _GONE)
            else:
                await box.http(ex)
        elif not ex.headers.get("x-api-key"):
            await ex.problem(401, "no credentials found")
        elif re.match(r"(/v\d)?/sandboxes", ex.path):
            await self._control(ex, [part for part in ex.path.split("/sandboxes", 1)[1].split("/") if part])
        else:
            await ex.problem(404, "no such path")

    async def _preview(self, ex: Exchange, port: int, box: Box | None, path: str) -> None:
        """What the provider's proxy does for a visitor; a 502 when nothing listens inside."""
        if box is None or box.paused or not box.alive:
            await ex.problem(502, _GONE)
        elif (inner := await box.port(port)) is None:
            await ex.problem(502, "The sandbox is running but port is not open")
        else:
            ex.target = ex.target.removeprefix(ex.path) if ex.path != ex.target else ""
            ex.target = path + ex.target
            try:
                await forward(ex, *inner)
            finally:
                inner[1].close()

    async def _control(self, ex: Exchange, parts: list[str]) -> None:
        match ex.method, parts:
            case "POST", []:
                await self._create(ex)
            case "GET", []:
                await self._list(ex)
            case method, [sandbox_id, *rest] if _ID.fullmatch(sandbox_id):
                box = self.boxes.get(sandbox_id)
                if box is None or not box.alive:
                    await ex.problem(404, f"sandbox {sandbox_id} not found")
                else:
                    await self._one(ex, box, method, rest[0] if rest else "")
            case _:
                await ex.problem(400, "Invalid sandbox ID")

    async def _create(self, ex: Exchange) -> None:
        asked = json.loads(ex.body)
        if refused := self._refusals.get("create") or self._refusal(asked):
            await ex.problem(*refused)
            return
        status = self._fault("create")
        if status == 429:
            await ex.problem(429, "too many", {"Retry-After": "0"})
            return
        key = ex.headers.get("idempotency-key", "")
        if not key or self._keys.get(key) not in self.boxes:
            self._keys[key] = await self._new(asked)
        if status is not None:
            await ex.problem(status, "oops", {"Retry-After": "0"})
        else:
            await ex.json(201, self.boxes[self._keys[key]].describe())

    def _refusal(self, asked: dict[str, Any]) -> tuple[int, str] | None:
        if asked.get("templateID") not in self.templates:
            return 404, f"template '{asked.get('templateID')}' not found"
        return self._too_long(asked)

    def _too_long(self, asked: dict[str, Any]) -> tuple[int, str] | None:
        if asked.get("timeout", 15) > self._max_lifetime_s:
            return 400, f"Timeout cannot be greater than {self._max_lifetime_s // 3600} hours"
        return None

    async def _new(self, asked: dict[str, Any]) -> str:
        self.creates += 1
        box = await start(
            self.state_dir,
            metadata=asked.get("metadata") or {},
            env=asked.get("envVars") or {},
            lifetime_s=asked.get("timeout", 15),
            disk_bytes=self._disk_bytes,
            reference=self._reference,
            has_python=asked["templateID"] != "no-python",
        )
        box.template, box.auto_pause = asked["templateID"], asked.get("autoPause", False)
        box.network = {
            "allow_internet_access": asked.get("allow_internet_access", True),
            **(asked.get("network") or {}),
        }
        self.boxes[box.id] = box
        self._lives(box, box.lifetime_s)
        return box.id

    def _lives(self, box: Box, seconds: float) -> None:
        """Set the end of a sandbox's life anew."""
        if box.expires is not None:
            box.expires.cancel()
        box.lifetime_s = seconds
        box.expires = asyncio.get_running_loop().call_later(seconds, self._expired, box)

    def _expired(self, box: Box) -> None:
        if box.auto_pause:
            box.pause()
        elif self.boxes.pop(box.id, None) is not None:
            box.process.kill()

    async def _list(self, ex: Exchange) -> None:
        if (status := self._fault("list")) is not None:
            await ex.problem(status, "oops", {"Retry-After": "0"})
            return
        wanted = dict(parse_qsl(ex.query.get("metadata", "")))
        states = ex.query.get("state", "running,paused").split(",")
        told = [box.describe() for box in self.boxes.values() if box.alive]
        found = [one for one in told if wanted.items() <= one["metadata"].items() and one["state"] in states]
        start_at = int(ex.query.get("nextToken") or 0)
        end = start_at + min(int(ex.query.get("limit") or 2), 2)  # small pages: clients must turn them
        await ex.json(200, found[start_at:end], {"X-Next-Token": str(end)} if end < len(found) else {})

    async def _one(self, ex: Exchange, box: Box, method: str, what: str) -> None:
        asked = json.loads(ex.body or b"{}")
        match method, what:
            case "GET", "":
                await ex.json(200, box.describe())
            case "DELETE", "":
                del self.boxes[box.id]
                await box.kill()
                await ex.send(204)
            case "POST", "connect" | "resume":
                if (status := self._fault("connect")) is not None:
                    await ex.problem(status, "oops", {"Retry-After": "0"})
                elif refused := self._too_long(asked):
                    await ex.problem(*refused)
                else:
                    resumed = await self._resumed(box)
                    self._lives(box, asked.get("timeout", 15))
                    await ex.json(201 if resumed else 200, box.describe())
            case "POST", "pause" if box.paused:
                await ex.problem(409, f"sandbox {box.id} is already paused")
            case "POST", "pause":
                box.pause()
                if box.expires is not None:
                    box.expires.cancel()
                await ex.send(204)
            case "POST", "timeout":
                if refused := self._too_long(asked):
                    await ex.problem(*refused)
                else:
                    self._lives(box, asked["timeout"])
                    await ex.send(204)
            case "PUT", "network":
                box.network = asked
                await ex.send(204)
            case _:
                await ex.problem(404, "no such path")

    async def _resumed(self, box: Box) -> bool:
        """Resume a paused sandbox. Returns False for a running one."""
        if not box.paused:
            return False
        if (older := self._older.get(box.id)) is not None:
            await asyncio.to_thread(_replace, older, box.home)
        box.resume()
        return True


def _replace(source: Path, home: Path) -> None:
    """Give the home the files of an older copy. A file that is in both keeps its inode, as on an older disk."""
    for path in sorted(home.rglob("*"), reverse=True):
        if not os.path.lexists(source / path.relative_to(home)):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in sorted(source.rglob("*")):
        own = home / path.relative_to(source)
        if path.is_dir() and not path.is_symlink():
            own.mkdir(exist_ok=True)
        elif path.is_symlink():
            own.unlink(missing_ok=True)
            own.symlink_to(path.readlink())
        else:
            own.write_bytes(path.read_bytes())
