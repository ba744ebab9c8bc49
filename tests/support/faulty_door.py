"""An object store's front door on loopback that fails as networks and stores do, by a seed."""

import contextlib
import http.client
import random
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length"}
_ERROR = b"<Error><Code>%s</Code><Message>drawn</Message></Error>"
_SLOW_S = 0.2


class FaultyDoor(ThreadingHTTPServer):
    """Passes requests on. `rate`: the part of them that fails in one of the ways of `faults`.

    before: 503 without an effect. after: the effect, then 503. cut: the effect, and half of the answer. reset: no
    answer. slow: everything, later. full: 507 for a write. `met` counts the faults by name.
    """

    daemon_threads = True
    faults = ("before", "after", "cut", "reset", "slow", "full")

    def __init__(self, endpoint: str, seed: int) -> None:
        self.behind = urlsplit(endpoint).netloc
        self.rate = 0.0
        self.met: dict[str, int] = {}
        self._draw, self._lock = random.Random(seed), threading.Lock()
        super().__init__(("127.0.0.1", 0), _Door)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def draw(self, command: str) -> str:
        """Return the fault of the next request, or `none`."""
        with self._lock:
            if self._draw.random() >= self.rate:
                return "none"
            fault = self._draw.choice(self.faults)
            if fault == "full" and command != "PUT":
                fault = "before"
            self.met[fault] = self.met.get(fault, 0) + 1
            return fault


class _Door(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyDoor

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.draw(self.command)
        if fault == "reset":
            self.close_connection = True
            return
        if fault in ("before", "full"):
            self._answer(*((507, b"InsufficientStorage") if fault == "full" else (503, b"SlowDown")))
            return
        if fault == "slow":
            time.sleep(_SLOW_S)  # the fault itself, not a wait for something
        try:
            status, headers, answer = self._ask(body)
        except OSError:  # the server behind is killed at this moment
            self.close_connection = True
            return
        if fault == "after":
            self._answer(503, b"SlowDown")
            return
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        cut = fault == "cut" and self.command == "GET" and len(answer) > 1
        if self.command != "HEAD":
            self.wfile.write(answer[: len(answer) // 2] if cut else answer)
        self.close_connection = cut

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        behind = http.client.HTTPConnection(self.server.behind, timeout=30)
        try:
            behind.request(self.command, self.path, body=body, headers=dict(self.headers))
            answer = behind.getresponse()
            told = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP]
            return answer.status, told, answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            behind.close()

    def _answer(self, status: int, code: bytes) -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(_ERROR % code)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(_ERROR % code)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test's output is its own."""


@contextlib.contextmanager
def faulty_door(endpoint: str, seed: int) -> Iterator[FaultyDoor]:
    """Serve before `endpoint` on a free port."""
    with FaultyDoor(endpoint, seed) as server:
        thread = threading.Thread(target=server.serve_forever, name="faulty door", daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
