"""The TCP proxy of the tests closes every connection."""

import asyncio
import gc
import socket

import pytest
from tests.support.tcp_proxy import tcp_proxy


@pytest.mark.parametrize("let_pass", [None, 0])
@pytest.mark.parametrize("turns", range(6))
def test_a_connection_made_while_closing_is_closed(turns: int, let_pass: int | None) -> None:
    async def connect_and_leave(port: int) -> None:
        async with tcp_proxy("127.0.0.1", port) as proxy:
            proxy.let_pass = let_pass
            clients.append(socket.create_connection(("127.0.0.1", proxy.own_port)))
            for _ in range(turns):
                await asyncio.sleep(0)

    clients: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as behind:
        asyncio.run(connect_and_leave(behind.getsockname()[1]))
    clients[0].close()
    gc.collect()  # an open socket warns here, and warnings are errors
