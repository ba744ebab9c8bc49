"""A network of its own without a route out: the proxy and private servers here, an "internet" behind a veth pair.

Run as root: `unshare -n python -m tests.support.egress_lab`. Reads one JSON question per line and answers one per line:
{"send": latin-1 text, "names": {host: [address, …]}} → {"answer": latin-1 text, "hits": [server, …], "lookups": n}.
The names of one question may have several lists: each lookup takes the next one, the last stays.
"""

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from nightshift.sandboxes.egress.authority import Authority
from nightshift.sandboxes.egress.proxy import EgressProxy
from nightshift.sandboxes.egress.resolver import Resolver
from nightshift.sandboxes.egress.rules import SandboxRules
from nightshift.sandboxes.egress.secret_store import SecretStore
from nightshift.sandboxes.port import NetworkRules, SecretUse
from nightshift.servicekit import logs

#: Addresses of the documentation networks, and one of ours on this side of the pair.
OUTSIDE, OUTSIDE_6, OWN = "198.51.100.10", "2001:db8::10", "198.51.100.1"
PRIVATE = ("127.0.0.1", "10.9.9.9", "169.254.169.254", "192.168.7.7", "100.64.0.9", OWN)
ALLOWED = ("files.lab.example", "other.lab.example", "secret.lab.example")
ACCOUNT, SECRET, PLACEHOLDER = "a1", "canary-value/with+signs==", "nightshift_secret_TOKEN_0011223344556677"


_tasks: list[asyncio.Task[None]] = []


async def main() -> None:
    logs.configure(level="error")
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority(Path(folder) / "ca")
        authority.prepare()
        store = SecretStore(Path(folder) / "secrets")
        store.put(ACCOUNT, "TOKEN", SECRET, ["secret.lab.example"])
        hits: list[str] = []
        outside = await internet(hits, authority)
        for address in PRIVATE:
            for port in (80, 443, 5432):
                await asyncio.start_server(_recorder(hits, f"{address}:{port}"), address, port)
        names: dict[str, list[list[str]]] = {}
        lookups: list[str] = []

        async def lookup(host: str) -> list[str]:
            lookups.append(host)
            answers = names.get(host, [[]])
            found = answers.pop(0) if len(answers) > 1 else answers[0]
            if not found:
                raise OSError("no such name")
            return found

        trusted = ssl.create_default_context(cafile=str(authority.certificate))
        trusted.set_alpn_protocols(["http/1.1"])
        resolver = Resolver(lookup)
        proxy = EgressProxy(resolver, authority, trusted)
        listener = socket.create_server(("127.0.0.1", 3128))
        rules = NetworkRules(frozenset(ALLOWED), (SecretUse(ACCOUNT, "TOKEN", PLACEHOLDER),))
        proxy.attach(SandboxRules("s1", "b1", rules, store), [listener])
        print(json.dumps({"ready": True}), flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            question: dict[str, Any] = json.loads(line)
            names.clear()
            names.update(question.get("names", {}))
            hits.clear()
            lookups.clear()
            resolver._known.clear()
            answer = b"".join([await _ask(question, one, authority) for one in _parts(question["send"])])
            await asyncio.sleep(0.02)  # the other namespace reports its hits over a pipe
            said = {"answer": answer.decode("latin-1"), "hits": list(hits), "lookups": len(lookups)}
            said["traffic"] = {one.host: one.reason for one in proxy.take("s1")}
            print(json.dumps(said), flush=True)
        outside.terminate()
        outside.wait()


def _parts(send: str | list[str]) -> list[str]:
    return [send] if isinstance(send, str) else send


async def _ask(question: dict[str, Any], send: str, authority: Authority) -> bytes:
    """One connection to the proxy. With `tls`, `send` goes through TLS for that name after the CONNECT of `connect`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", 3128)
    try:
        async with asyncio.timeout(2):
            if "connect" in question:
                writer.write(question["connect"].encode("latin-1"))
                head = await reader.readuntil(b"\r\n\r\n")
                if b" 200 " not in head:
                    return head + await reader.read()
                if "tls" in question:
                    client = ssl.create_default_context(cafile=str(authority.certificate))
                    await writer.start_tls(client, server_hostname=question["tls"])
            writer.write(send.encode("latin-1"))
            if question.get("half_close", True) and "tls" not in question:
                writer.write_eof()
            return await reader.read()
    except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
        return f"[{type(error).__name__}: {error}]".encode()
    finally:
        writer.close()


def _recorder(hits: list[str], name: str) -> Any:
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hits.append(name)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nprivate")
        writer.close()

    return serve


async def internet(
    hits: list[str], authority: Authority, *, root: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start the servers outside in a network namespace of their own, joined to this one by a pair of interfaces.

    They serve the files of `root`.
    """
    contexts = [authority._new_context]  # certificates are made here, so that one authority is trusted
    for host in ALLOWED:
        contexts[0](host)
    read, write = os.pipe()
    command = [sys.executable, "-m", "tests.support.egress_outside", str(write), str(authority._directory)]
    command += [] if root is None else [str(root)]
    process = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs yet
        ["unshare", "-n", *command], pass_fds=[write], stdin=subprocess.PIPE
    )
    os.close(write)
    reports = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reports), os.fdopen(read, "rb")
    )
    await reports.readline()  # it is in its namespace
    for step in (
        "ip link set lo up",
        f"ip link add v0 type veth peer name v1 netns {process.pid}",
        f"ip addr add {OWN}/24 dev v0",
        "ip -6 addr add 2001:db8::1/64 dev v0 nodad",
        "ip link set v0 up",
        *(f"ip addr add {address}/32 dev lo" for address in PRIVATE if address not in ("127.0.0.1", OWN)),
    ):
        subprocess.run(step.split(), check=True)  # noqa: ASYNC221
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    process.stdin.flush()
    await reports.readline()  # its servers listen

    async def collect() -> None:
        while line := await reports.readline():
            hits.append(line.decode().strip())

    _tasks.append(asyncio.create_task(collect()))
    return process


if __name__ == "__main__":
    asyncio.run(main())
