"""The agent program's side of one client connection, which carries one request and its answer."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from .event_loop import READ, WRITE, EventLoop, Timer
from .wire import LENGTH

#: The largest header of a request, in bytes: room for a command of 200,000 characters in JSON.
_MOST_HEADER = 4 * 1024 * 1024
#: Seconds within which a client must send its header, and must close after the answer.
_CLIENT_S = 30.0


class Connection:
    """A connection with one request: reads the request's header and writes the answer, without blocking the event
    loop.
    """

    def __init__(
        self, loop: EventLoop, sock: socket.socket, dispatch: Callable[[Connection, bytes], None]
    ) -> None:
        """Read the header of the request, then call `dispatch` with it."""
        self._dispatch = dispatch
        self._loop = loop
        self.sock = sock
        self._buffer = b""
        self._wanted = LENGTH.size
        self._out = b""
        sock.setblocking(False)
        self._expiry: Timer | None = self._loop.later(_CLIENT_S, self.close)
        self.on_close: Callable[[], None] = lambda: None
        self._loop.watch(sock.fileno(), self._read_header)

    def _read_header(self) -> None:
        """Read the header when data has arrived, and no byte beyond it: a forked process reads the body from the
        socket.
        """
        try:
            data = self.sock.recv(self._wanted)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._buffer += data
        self._wanted -= len(data)
        if not data:
            self.close()
        elif self._wanted == 0 and len(self._buffer) == LENGTH.size:
            (self._wanted,) = LENGTH.unpack(self._buffer)
            if not 0 < self._wanted <= _MOST_HEADER:
                self.close()
        elif self._wanted == 0:
            self._cancel_expiry()
            self._loop.watch(self.sock.fileno(), self._watch_for_end)
            self._dispatch(self, self._buffer[LENGTH.size :])

    def _cancel_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _watch_for_end(self) -> None:
        try:
            if self.sock.recv(65536):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.close()

    def answer(self, data: bytes) -> None:
        """Send the answer, then wait until the client closes the connection. Closing first could discard the answer."""
        self._out = data
        self._expiry = self._loop.later(_CLIENT_S, self.close)
        self._send()

    def _send(self) -> None:
        try:
            while self._out:
                self._out = self._out[self.sock.send(self._out[: 1 << 20]) :]
        except BlockingIOError:
            self._loop.watch(self.sock.fileno(), self._send, READ | WRITE)
            return
        except OSError:
            self.close()
            return
        self._loop.watch(self.sock.fileno(), self._watch_for_end)
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def release(self) -> None:
        """Close this process's copy of the socket, because a forked process continues with it."""
        self._cancel_expiry()
        self._loop.unwatch(self.sock.fileno())
        self.sock.close()

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            self.release()
            self.on_close()
