"""Which TCP port a server gets: one below the range that outgoing connections draw from.

A port from that range could be taken by any outgoing connection between the death of a server and its restart. Nobody
can reserve a port for another process, so whoever starts a server on a drawn port tries again when it lost the race.
"""

import random
import socket

LOOPBACK = "127.0.0.1"
_LOW, _HIGH = 20_000, 32_000  # Linux draws from 32768 up, macOS and the BSDs from 49152 up
_TRIES = 200


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set it too: connections of a former server in TIME_WAIT do not keep them from listening.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def draw_port() -> int:
    """A free loopback port, drawn at random so that stacks which start together do not draw the same one."""
    for _ in range(_TRIES):
        port = random.randrange(_LOW, _HIGH)  # noqa: S311 - not a secret
        if is_free(port):
            return port
    raise OSError(f"no free port found between {_LOW} and {_HIGH}")
