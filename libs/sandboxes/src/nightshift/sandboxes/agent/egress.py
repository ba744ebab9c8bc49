"""The listeners of a local sandbox to which programs inside connect for the network outside.

Process 1 opens them on the sandbox's loopback. It hands them to the host, whose proxy accepts the connections: a socket
stays in the network namespace in which it was made.
"""

from __future__ import annotations

import array
import contextlib
import socket

#: The port of the proxy, as the variables in `local/network.py` name it.
PROXY_PORT = 3128


def open_listeners() -> list[socket.socket]:
    """Open the listeners. Returns an empty list when the port cannot be had."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with contextlib.suppress(OSError):
        listener.bind(("127.0.0.1", PROXY_PORT))
        listener.listen(512)
        return [listener]
    listener.close()
    return []


def hand_over(connection: socket.socket, listeners: list[socket.socket]) -> None:
    """Send the listeners to the host."""
    fds = array.array("i", [listener.fileno() for listener in listeners])
    connection.sendmsg([b"\1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if listeners else [])
