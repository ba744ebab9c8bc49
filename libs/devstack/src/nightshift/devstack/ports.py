"""Chooses TCP ports for servers, below the range that the kernel gives to outgoing connections.

An outgoing connection could take a port of that range between the death of a server and its restart. No process can
reserve a port for another, so `start_ready` tries another port when a drawn one was taken meanwhile.
"""

import random
import socket

LOOPBACK = "127.0.0.1"
_LOW, _HIGH = 20_000, 32_000  # Linux draws from 32768 up, macOS and the BSDs from 49152 up
_TRIES = 200


def is_free(port: int) -> bool:
    """Return whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set it too, so connections of an earlier server in TIME_WAIT do not stop them.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def draw_port() -> int:
    """Return a free loopback port, drawn at random so that stacks that start together draw different ones.

    Raises OSError when 200 draws find none.
    """
    for _ in range(_TRIES):
        port = random.randrange(_LOW, _HIGH)  # noqa: S311 - not a secret
        if is_free(port):
            return port
    raise OSError(f"no free port found between {_LOW} and {_HIGH}")
