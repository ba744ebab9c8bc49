"""Without keys the object store signs with the role of the process, such as that of a pod or a container."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from nightshift.eventlog.errors import NotFound
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.settings import ObjectStoreSettings

_ABSENT = b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code><Message>none</Message></Error>"


class _Server(BaseHTTPRequestHandler):
    """Gives credentials at /role, and answers every other request as an S3 server without objects."""

    seen: ClassVar[dict[str, str]] = {}

    def do_GET(self) -> None:
        role = {"AccessKeyId": "ROLEKEY", "SecretAccessKey": "s", "Token": "role-token"}
        role["Expiration"] = "2099-01-01T00:00:00Z"
        is_role = self.path == "/role"
        if not is_role:
            self.seen.update(self.headers.items())
        body = json.dumps(role).encode() if is_role else _ABSENT
        self.send_response(200 if is_role else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


async def test_requests_are_signed_with_the_role_of_the_container(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{address}/role")
    async with S3ObjectStore(ObjectStoreSettings(s3_bucket="b", s3_endpoint=address)) as store:
        with pytest.raises(NotFound):
            await store.get("k")
    assert "Credential=ROLEKEY/" in _Server.seen["Authorization"]
    assert _Server.seen["X-Amz-Security-Token"] == "role-token"
