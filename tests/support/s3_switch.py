"""An object store's front door that answers 500 to whatever concerns some projects, and passes everything else on."""

import contextlib
import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_HOP = {"connection", "transfer-encoding", "keep-alive"}
_ERROR = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"


class Switch(ThreadingHTTPServer):
    """`broken`: what in a request's path makes it fail."""

    daemon_threads = True

    def __init__(self, endpoint: str, broken: str) -> None:
        self.behind = urlsplit(endpoint).netloc
        self.broken = broken
        self.refused = 0
        super().__init__(("127.0.0.1", 0), _Door)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Door(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Switch

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.broken in self.path:
            self.server.refused += 1
            self._answer(500, {}, _ERROR)
            return
        behind = http.client.HTTPConnection(self.server.behind, timeout=30)
        try:
            behind.request(self.command, self.path, body=body, headers=dict(self.headers))
            answer = behind.getresponse()
            told = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
            self._answer(answer.status, told, answer.read())
        finally:
            behind.close()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in {name.title() for name in headers}:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test's output is its own."""


@contextlib.contextmanager
def s3_switch(endpoint: str, *, broken: str) -> Iterator[Switch]:
    """Serve before `endpoint` on a free port."""
    with Switch(endpoint, broken) as server:
        thread = threading.Thread(target=server.serve_forever, name="s3 switch", daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
