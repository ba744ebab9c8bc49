"""The listening sockets in a local sandbox to which programs connect to reach the network outside.

The agent program opens them on the sandbox's loopback and passes them to the host, where the egress proxy accepts
connections. That works because a socket stays in the network namespace in which it was made.
"""

from __future__ import annotations

import array
import contextlib
import socket

#: The port of the proxy. The environment variables in `local/network.py` name it.
PROXY_PORT = 3128


def open_listeners() -> list[socket.socket]:
    """Open the listening sockets. Returns an empty list when another program in the sandbox uses the proxy's port."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with contextlib.suppress(OSError):
        listener.bind(("127.0.0.1", PROXY_PORT))
        listener.listen(512)
        return [listener]
    listener.close()
    return []


def hand_over(connection: socket.socket, listeners: list[socket.socket]) -> None:
    """Send the listening sockets to the host over this connection."""
    fds = array.array("i", [listener.fileno() for listener in listeners])
    connection.sendmsg([b"\1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if listeners else [])
