"""Measures the egress proxy beside direct connections, in a network namespace of its own.

    unshare -n python bench/proxy.py [--requests 400] [--megabytes 1000] [--other 'COMMAND {port}']

Prints for each way: milliseconds of a small request on a kept connection and on a new TLS connection, MB/s of one long
download, and the CPU milliseconds of the proxy's process for a request. `--other` starts another proxy and measures it
in the same run; /etc/hosts must then name files.bench.example as 127.0.0.1 (in a mount namespace, with `mount --bind`).
"""

import argparse
import asyncio
import multiprocessing
import os
import resource
import shlex
import socket
import ssl
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from nightshift.sandboxes.egress.authority import Authority
from nightshift.sandboxes.egress.proxy import EgressProxy
from nightshift.sandboxes.egress.resolver import Resolver
from nightshift.sandboxes.egress.rules import SandboxRules
from nightshift.sandboxes.egress.secret_store import SecretStore
from nightshift.sandboxes.port import NetworkRules, SecretUse
from nightshift.servicekit import logs

HOST, SECRETIVE = "files.bench.example", "secret.bench.example"
OURS, OTHER = 3128, 3129
PLACEHOLDER = "nightshift_secret_T_0123456789abcdef"
_CHUNK = b"x" * (1 << 20)


def origin(folder: Path, megabytes: int) -> None:
    """Serves a small body at any path, and `megabytes` MB at /big, on ports 80 and 443."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = megabytes << 20 if head.startswith(b"GET /big") else 10
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
                for _ in range(size >> 20):
                    writer.write(_CHUNK)
                    await writer.drain()
                writer.write(b"0123456789" if size == 10 else b"")
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    async def main() -> None:
        authority = Authority(folder)
        await asyncio.start_server(serve, "127.0.0.1", 80)
        context = authority.server_context(HOST)
        secretive = authority.server_context(SECRETIVE)
        context.sni_callback = lambda tls, name, _: (
            setattr(tls, "context", secretive) if name == SECRETIVE else None
        )
        await asyncio.start_server(serve, "127.0.0.1", 443, ssl=context)
        await asyncio.Event().wait()

    uvloop.run(main())


def proxy(folder: Path) -> None:
    async def main() -> None:
        logs.configure(level="error")
        authority = Authority(folder)
        store = SecretStore(folder / "secrets")
        trusted = ssl.create_default_context(cafile=str(authority.certificate))

        async def lookup(_host: str) -> list[str]:
            return ["127.0.0.1"]

        resolver = Resolver(lookup, refusal=lambda _address: None)
        rules = NetworkRules(frozenset({HOST}), (SecretUse("a", "T", PLACEHOLDER),))
        served = SandboxRules("s", "b", rules, store)
        EgressProxy(resolver, authority, trusted).attach(served, [socket.create_server(("127.0.0.1", OURS))])
        await asyncio.Event().wait()

    uvloop.run(main())


def opened(port: int | None, host: str) -> socket.socket:
    """A connection to the host's TLS port: direct, or through a CONNECT to the proxy at `port`."""
    if port is None:
        return socket.create_connection(("127.0.0.1", 443))
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode())
    answer = sock.recv(4096)
    assert b" 200 " in answer.split(b"\r\n")[0], answer
    return sock


def get(sock: socket.socket, target: str, host: str) -> None:
    sock.sendall(
        f"GET {target} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {PLACEHOLDER}\r\n\r\n".encode()
    )
    data = b""
    while not data.endswith(b"0123456789"):
        more = sock.recv(65536)
        assert more, data
        data += more


def small(requests: int, one: Callable[[], None]) -> float:
    """The median of the milliseconds of one request."""
    times = []
    for _ in range(requests):
        started = time.perf_counter()
        one()
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def big(sock: socket.socket, target: str, host: str, megabytes: int) -> float:
    """MB/s of one download."""
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    buffer, left, started = bytearray(1 << 20), megabytes << 20, time.perf_counter()
    while left > 0:
        size = sock.recv_into(buffer)
        assert size
        left -= size
    return megabytes / (time.perf_counter() - started)


def measure(
    name: str, port: int | None, pid: int | None, arguments: argparse.Namespace, tls: ssl.SSLContext
) -> None:
    def plain() -> socket.socket:
        return socket.create_connection(("127.0.0.1", port or 80))

    prefix = "" if port is None else f"http://{HOST}"
    before = cpu(pid)
    with plain() as kept:
        kept.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        kept_ms = small(arguments.requests, lambda: get(kept, f"{prefix}/small", HOST))
    spent = (cpu(pid) - before) / arguments.requests * 1000

    def fresh() -> None:
        with tls.wrap_socket(opened(port, HOST), server_hostname=HOST) as sock:
            get(sock, "/small", HOST)

    fresh_ms = small(arguments.requests // 4, fresh)
    with plain() as sock:
        plain_mb = big(sock, f"{prefix}/big", HOST, arguments.megabytes)
    with tls.wrap_socket(opened(port, HOST), server_hostname=HOST) as sock:
        tunnel_mb = big(sock, "/big", HOST, arguments.megabytes)
    line = f"{name:<22} kept {kept_ms:6.2f} ms   new TLS {fresh_ms:6.2f} ms   http {plain_mb:6.0f} MB/s   "
    print(line + f"TLS {tunnel_mb:6.0f} MB/s   proxy CPU {spent:5.2f} ms a request", flush=True)


def cpu(pid: int | None) -> float:
    """CPU seconds of a process so far."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for(port: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--other", help="a command that starts another proxy; {port} and {ca} are filled in")
    arguments = parser.parse_args()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        certificate = Authority(path).prepare()
        SecretStore(path / "secrets").put("a", "T", "a-real-secret-value", [SECRETIVE])
        fork = multiprocessing.get_context("fork")
        processes = [fork.Process(target=origin, args=(path, arguments.megabytes), daemon=True)]
        processes.append(fork.Process(target=proxy, args=(path,), daemon=True))
        for process in processes:
            process.start()
        for port in (80, 443, OURS):
            wait_for(port)
        tls = ssl.create_default_context(cafile=str(certificate))
        measure("direct", None, None, arguments, tls)
        measure("egress proxy", OURS, processes[1].pid, arguments, tls)
        with tls.wrap_socket(opened(OURS, SECRETIVE), server_hostname=SECRETIVE) as sock:
            swapped = small(arguments.requests, lambda: get(sock, "/small", SECRETIVE))
            rate = (
                big(sock, "/big", SECRETIVE, arguments.megabytes // 4) if arguments.megabytes % 4 == 0 else 0
            )
        print(
            f"{'with a secret':<22} kept {swapped:6.2f} ms   TLS ended and begun again {rate:6.0f} MB/s",
            flush=True,
        )
        if arguments.other:
            with subprocess.Popen(shlex.split(arguments.other.format(port=OTHER, ca=certificate))) as other:
                wait_for(OTHER)
                measure("the other", OTHER, other.pid, arguments, tls)
                other.terminate()


if __name__ == "__main__":
    main()
