"""The S3 object store passes the conformance suite and raises our own errors."""

import asyncio
from collections.abc import Iterator
from functools import partial
from uuid import uuid4

import pytest
from tests.support.http_answers import answering
from tests.support.object_conformance import ObjectStoreConformance
from tests.support.stack import store_settings

from nightshift.devstack.parts import S3Address
from nightshift.eventlog.errors import ConfigurationError, Unavailable
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.settings import ObjectStoreSettings


def settings(endpoint: str) -> ObjectStoreSettings:
    """Settings for a server that checks no credentials."""
    return store_settings(S3Address(endpoint, "nightshift", "k", "s"))


class TestS3ObjectStore(ObjectStoreConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def store(cls, s3: S3Address) -> Iterator[S3ObjectStore]:
        """One store for all tests, because making a client takes most of a second."""
        store = S3ObjectStore(store_settings(s3))
        yield store
        asyncio.run(store.close())

    @pytest.fixture
    def prefix(self) -> str:
        return f"t{uuid4().hex}"

    async def test_the_body_is_stored_unchanged(self, store, prefix, s3):
        """The object contains no checksum trailer of newer SDKs, which some servers would store."""
        async with answering(200) as server, S3ObjectStore(settings(server.endpoint)) as other:
            await other.put("a", b"body")
        assert server.requests[0].body == b"body"
        assert "aws-chunked" not in server.requests[0].headers.get("content-encoding", "")

    async def test_more_than_a_page_is_listed(self, store, prefix, monkeypatch):
        for number in range(3):
            await store.put(f"{prefix}/{number}", b"")
        client = store._client
        monkeypatch.setattr(client, "list_objects_v2", partial(client.list_objects_v2, MaxKeys=1))
        assert len([item async for item in store.list(f"{prefix}/")]) == 3


async def test_a_conditional_write_conflict_is_retried():
    async with answering(409, 409, 200) as server, S3ObjectStore(settings(server.endpoint)) as store:
        assert await store.put_if_absent("a", b"x")
    assert [request.headers["if-none-match"] for request in server.requests] == ["*"] * 3


async def test_an_error_of_the_server_is_retried():
    async with answering(500, 503, 200) as server, S3ObjectStore(settings(server.endpoint)) as store:
        await store.put("a", b"x")
    assert len(server.requests) == 3


async def test_a_server_that_stays_broken_is_unavailable():
    async with answering(500) as server, S3ObjectStore(settings(server.endpoint)) as store:
        with pytest.raises(Unavailable):
            await store.put("a", b"x")


async def test_an_unreachable_store_is_unavailable(unused_tcp_port):
    async with S3ObjectStore(settings(f"http://127.0.0.1:{unused_tcp_port}")) as store:
        with pytest.raises(Unavailable):
            await store.get("a")


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "AccessDenied"), (404, "NoSuchBucket"), (400, "AuthorizationHeaderMalformed")],
)
async def test_a_wrong_setting_is_a_configuration_error(status, code):
    async with (
        answering(status, code=code) as server,
        S3ObjectStore(settings(server.endpoint)) as store,
    ):
        with pytest.raises(ConfigurationError):
            await store.get("a")
