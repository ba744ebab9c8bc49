"""The messages between the sandbox gateway and the egress proxy's process: JSON and file descriptors.

Each is one packet of a Unix socket that keeps packets apart.
"""

import array
import json
import os
import socket
from collections.abc import Sequence
from typing import Any, Final

_LONGEST: Final = 200_000
_MOST_FDS: Final = 8


def send(sock: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message with file descriptors.

    Raises BlockingIOError when the receiver is far behind, and OSError when it is gone.
    """
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([json.dumps(message).encode()], rights)


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Return the next message and its file descriptors, or None when the other side has closed the socket.

    Child processes do not inherit the descriptors.
    """
    data, ancillary, _, _ = sock.recvmsg(_LONGEST, socket.CMSG_SPACE(4 * _MOST_FDS), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    if not data:
        for fd in fds:
            os.close(fd)
        return None
    return json.loads(data), list(fds)
