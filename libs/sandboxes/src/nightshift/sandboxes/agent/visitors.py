"""Connects a visitor of a preview to a port in the sandbox."""

from __future__ import annotations

import contextlib
import select
import socket


def copy_to_port(connection: socket.socket, port: int) -> bool:
    """Connect to a port in the sandbox, and copy bytes both ways until both sides have closed.

    Returns False at once when nothing listens on the port.
    """
    try:
        inner = socket.create_connection(("127.0.0.1", int(port)), timeout=5)
    except OSError:
        return False
    inner.settimeout(None)
    connection.setblocking(True)
    connection.sendall(b"\1")
    other = {connection: inner, inner: connection}
    open_ = [connection, inner]
    while open_:
        for source in select.select(open_, [], [])[0]:
            data = source.recv(65536)
            if data:
                other[source].sendall(data)
            else:
                open_.remove(source)
                with contextlib.suppress(OSError):
                    other[source].shutdown(socket.SHUT_WR)
    return True
