"""A Messages API whose behaviour a test chooses: it answers, refuses the key, is overloaded, or says nothing."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_REFUSALS = {
    "refuse": (401, {"type": "authentication_error", "message": "invalid x-api-key"}),
    "overload": (529, {"type": "overloaded_error", "message": "Overloaded"}),
}


class MoodyModel:
    """`mood` is `refuse`, `overload` or a shell command, which each build's first answer runs. Later answers wait."""

    def __init__(self) -> None:
        self.mood = "true"
        self.url = ""
        self.over = threading.Event()

    def answer(self) -> bytes:
        message = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "scripted-1",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 10, "output_tokens": 1},
        }
        call = {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {}}
        given = json.dumps({"command": self.mood, "description": "a test", "timeout": 600_000})
        events: list[tuple[str, dict[str, Any]]] = [
            ("message_start", {"message": message}),
            ("content_block_start", {"index": 0, "content_block": call}),
            (
                "content_block_delta",
                {"index": 0, "delta": {"type": "input_json_delta", "partial_json": given}},
            ),
            ("content_block_stop", {"index": 0}),
            (
                "message_delta",
                {"delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": {"output_tokens": 9}},
            ),
            ("message_stop", {}),
        ]
        return "".join(
            f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n" for kind, data in events
        ).encode()


@contextlib.contextmanager
def moody_model() -> Iterator[MoodyModel]:
    """Serve the model for the block."""
    model = MoodyModel()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if model.mood in _REFUSALS:
                status, error = _REFUSALS[model.mood]
                self._send(status, "application/json", json.dumps({"type": "error", "error": error}).encode())
                return
            if b"tool_result" in body:
                model.over.wait()
            self._send(200, "text/event-stream", model.answer())

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    model.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield model
    finally:
        model.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
