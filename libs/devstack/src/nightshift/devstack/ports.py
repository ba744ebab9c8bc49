"""Chooses TCP ports for servers, below the range from which the kernel takes ports for outgoing connections.

Otherwise an outgoing connection could take a server's port while the server restarts. A process cannot reserve a port
for another process. So `start_ready` tries another port when a program has taken the chosen one meanwhile.
"""

import random
import socket

LOOPBACK = "127.0.0.1"
_LOW, _HIGH = 20_000, 32_000  # outgoing connections: from 32768 on Linux, from 49152 on macOS and BSD
_TRIES = 200


def is_free(port: int) -> bool:
    """Return whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set this option too. So a port whose old connections are in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def draw_port() -> int:
    """Return a free loopback port at random, so that stacks which start at the same time choose different ones.

    Raises OSError when 200 attempts find no free port.
    """
    for _ in range(_TRIES):
        port = random.randrange(_LOW, _HIGH)  # noqa: S311 - not a secret
        if is_free(port):
            return port
    raise OSError(f"no free port found between {_LOW} and {_HIGH}")
