"""The servers of the "internet" of `egress_lab`: HTTP on port 80, HTTPS on port 443, at two addresses.

They answer with what they got: the request's head and body as text. `/report` also reports it to the lab.
"""

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h11

from nightshift.sandboxes.egress.authority import Authority

_SERVED = ("files.lab.example", "other.lab.example", "secret.lab.example")


async def main(report: int, authority: Authority, root: Path | None) -> None:
    def say(text: str) -> None:
        os.write(report, f"{text}\n".encode())

    say("in")
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    for step in (
        "ip link set lo up",
        "ip addr add 198.51.100.10/24 dev v1",
        "ip -6 addr add 2001:db8::10/64 dev v1 nodad",
        "ip link set v1 up",
    ):
        subprocess.run(step.split(), check=True)  # noqa: ASYNC221 - nothing else runs yet
    context = authority.server_context(_SERVED[0])
    for host in _SERVED:
        other = authority.server_context(host)
        contexts[host] = other
    context.sni_callback = lambda tls, name, _: setattr(tls, "context", contexts.get(name or "", context))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        say("{}:{}".format(*writer.get_extra_info("sockname")[:2]))
        parser = h11.Connection(h11.SERVER)
        try:
            await _answer(parser, reader, writer, say, root)
        except (h11.ProtocolError, OSError):
            pass
        finally:
            writer.close()

    for address in ("198.51.100.10", "2001:db8::10"):
        await asyncio.start_server(serve, address, 80)
        await asyncio.start_server(serve, address, 443, ssl=context)
    say("listening")
    await asyncio.Event().wait()


contexts: dict[str, object] = {}


async def _answer(
    parser: h11.Connection,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    say: Callable[[str], None],
    root: Path | None,
) -> None:
    while True:
        got, body, path = "", b"", b""
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Request):
                path = event.target
                got = f"{event.method.decode()} {event.target.decode()}\n"
                got += "".join(
                    f"{name.decode()}: {value.decode('latin-1')}\n" for name, value in event.headers
                )
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return
        text = f"reached\n{got}\n".encode() + body
        if b"/report" in path:
            say(json.dumps([got, body.decode("latin-1")]))
        status = 200
        if root is not None:
            git = path.startswith(b"/git/")
            status, text = await _git(root, path, got, body) if git else _file(root, path, got)
        headers = [("content-length", str(len(text))), ("x-got", "yes")]
        if path in types:
            headers.append(("content-type", types[path]))
        if path == b"/redirect":
            headers.append(("location", "http://169.254.169.254/latest/meta-data"))
        writer.write(parser.send(h11.Response(status_code=status, headers=headers)) or b"")
        step = 7 if root is None else 65536  # in pieces, so that a value is split
        for at in range(0, len(text), step):
            writer.write(parser.send(h11.Data(data=text[at : at + step])) or b"")
            await writer.drain()
        writer.write(parser.send(h11.EndOfMessage()) or b"")
        if parser.our_state is not h11.DONE or parser.their_state is not h11.DONE:
            return
        parser.start_next_cycle()


async def _git(root: Path, path: bytes, got: str, body: bytes) -> tuple[int, bytes]:
    """git's own CGI program, which takes pushes. The answer's headers are left out: git asks for none of them."""
    info, _, query = path.decode().removeprefix("/git").partition("?")
    given = dict(line.split(": ", 1) for line in got.splitlines()[1:])
    service = (query or info).rpartition("=" if query else "/")[2]
    kind = "advertisement" if query else "result"
    environment = {
        "PATH": os.environ["PATH"],
        "GIT_PROJECT_ROOT": str(root),
        "GIT_HTTP_EXPORT_ALL": "1",
        "REMOTE_USER": "nightshift",
        "REQUEST_METHOD": got.split()[0],
        "PATH_INFO": info,
        "QUERY_STRING": query,
        "CONTENT_TYPE": given.get("content-type", ""),
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_CONTENT_ENCODING": given.get("content-encoding", ""),
    }
    cgi = await asyncio.create_subprocess_exec("git", "http-backend", stdin=-1, stdout=-1, env=environment)
    answer, _ = await cgi.communicate(body)
    types[path] = f"application/x-{service}-{kind}"
    return 200, answer.partition(b"\r\n\r\n")[2]


types: dict[bytes, str] = {}


def _file(root: Path, path: bytes, got: str) -> tuple[int, bytes]:
    """A file below `root`. Those below /private need the password canary-token-0123456789."""
    name = path.decode().partition("?")[0].lstrip("/")
    if name.startswith("private/"):
        basic = base64.b64encode(b"x-access-token:canary-token-0123456789").decode()
        if f"authorization: Basic {basic}" not in got:
            return 401, b""
        name = name.removeprefix("private/")
    file = root / name
    return (200, file.read_bytes()) if file.is_file() else (404, b"")


if __name__ == "__main__":
    served = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    asyncio.run(main(int(sys.argv[1]), Authority(Path(sys.argv[2])), served))
