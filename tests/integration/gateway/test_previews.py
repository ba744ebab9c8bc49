"""Previews behind the gateway's address: HTTP and websockets, at a signed name that ends."""

import asyncio
import base64
import hashlib
import time

from tests.support.gateway_world import World

from nightshift.sandbox_gateway.adapters.preview_server import PreviewServer
from nightshift.sandbox_gateway.domain.preview_link import PreviewLinks

LINKS = PreviewLinks("http://preview.test", b"k" * 32)
#: In the sandbox: answers what it got and sets a cookie for all subdomains; echoes websocket frames in upper case.
SERVER = r"""
import asyncio, base64, hashlib
async def serve(reader, writer):
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    if "sec-websocket-key" in head.lower():
        key = [l.split(": ")[1] for l in head.split("\r\n") if l.lower().startswith("sec-websocket-key")][0]
        key += "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        writer.write(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        writer.write(f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode())
        while True:
            first, size = await reader.readexactly(2)
            mask = await reader.readexactly(4)
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(await reader.readexactly(size & 127)))
            if first & 15 == 8:
                break
            writer.write(bytes([129, len(data)]) + data.upper())
    else:
        body = head.encode()
        writer.write(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Domain=preview.test; Path=/\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    writer.close()
async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", 8000) as server:
        await server.serve_forever()
asyncio.run(main())
"""


async def ask(server: PreviewServer, host: str, *headers: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = ["GET /page?x=1 HTTP/1.1", f"Host: {host}", "Connection: close", *headers, "", ""]
    writer.write("\r\n".join(head).encode())
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_preview_is_served_at_its_signed_name(world: World) -> None:
    await world.run(("write_file", {"file_path": "server.py", "content": SERVER}))
    await world.bash("python3 server.py", run_in_background=True)
    sandbox_id = await world.box_id()
    async with PreviewServer(world.driver, LINKS, host="127.0.0.1", port=0) as server:
        link = LINKS.link(sandbox_id, 8000, expires=int(time.time()) + 60)
        host = link.removeprefix("http://").rstrip("/")
        answer = b""
        while b"200 OK" not in answer:  # until the server in the sandbox listens
            answer = await ask(server, host)
            await asyncio.sleep(0.05)
        assert b"GET /page?x=1 HTTP/1.1\r\nhost: localhost:8000" in answer
        assert b"set-cookie: a=b; path=/" in answer.lower()
        assert b"domain" not in answer.lower().partition(b"get /page")[0]
        assert b"referrer-policy: same-origin" in answer.lower()

        expired = (
            LINKS.link(sandbox_id, 8000, expires=int(time.time()) - 1).removeprefix("http://").rstrip("/")
        )
        gone = LINKS.link("local-0123456789abcdef", 8000, expires=int(time.time()) + 60)[7:-1]
        closed = LINKS.link(sandbox_id, 9, expires=int(time.time()) + 60)[7:-1]
        assert (await ask(server, expired)).startswith(b"HTTP/1.1 410 ")
        for wrong in ("preview.test", "evil.test", host.replace("8000-", "8001-"), gone):
            assert (await ask(server, wrong)).startswith(b"HTTP/1.1 404 "), wrong
        assert (await ask(server, closed)).startswith(b"HTTP/1.1 502 ")
        await speak_websocket(server, host)


async def speak_websocket(server: PreviewServer, host: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    key = base64.b64encode(b"0123456789abcdef").decode()
    writer.write(
        f"GET /socket HTTP/1.1\r\nHost: {host}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    accepted = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    assert head.startswith(b"HTTP/1.1 101 ")
    assert base64.b64encode(accepted) in head
    for word in (b"hello", b"night"):
        writer.write(bytes([129, 128 | len(word)]) + b"\0\0\0\0" + word)
        assert await reader.readexactly(2 + len(word)) == bytes([129, len(word)]) + word.upper()
    writer.close()


async def test_open_port_gives_the_signed_link(world: World) -> None:
    runner = world.gateway()
    object.__setattr__(
        runner.calls, "link", lambda sandbox_id, port: LINKS.link(sandbox_id, port, expires=4_000_000_000)
    )
    serve = ("bash", {"command": "python3 -m http.server 8000", "run_in_background": True})
    _, opened = await world.ask(serve, ("open_port", {"port": 8000, "path": "/health"}))
    await runner.work(world.build_id)
    result = (await world.results())[opened]
    assert result.output.startswith(f"http://8000-{await world.box_id()}-")
    assert ".preview.test/health answers with status 200" in result.output
