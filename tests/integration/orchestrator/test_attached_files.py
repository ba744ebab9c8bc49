"""Files of a request, from the object store to the strict model, with real servers."""

import hashlib

import pytest
from tests.integration.orchestrator.conftest import RunningServers
from tests.integration.orchestrator.test_service import asked, dead_letters
from tests.support.stack import store_settings

from nightshift.contracts.events.requests import Attachment
from nightshift.devstack.parts import S3Address
from nightshift.eventlog.large import put_blob
from nightshift.eventlog.objects.s3 import S3ObjectStore

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

PDF = b"%PDF-1.7\n" + b"x" * 300_000
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 50_000


def attachment(name: str, media_type: str, body: bytes) -> Attachment:
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    return Attachment(name=name, digest=digest, bytes=len(body), media_type=media_type)


async def test_attached_files_reach_the_model_and_a_missing_one_is_refused(
    servers: RunningServers, s3: S3Address
):
    async with S3ObjectStore(store_settings(s3)) as store:
        for body in (PDF, PNG, b"curious"):
            await put_blob(body, store)
    await servers.orchestrator("one")
    files = (
        attachment("terms.pdf", "application/pdf", PDF),
        attachment("shot.png", "image/png", PNG),
        # The scenario asks a question when the conversation has this word, which only the file holds.
        attachment("word.txt", "text/plain", b"curious"),
    )
    await servers.send(asked("b1", attachments=files))
    await servers.send(asked("b2", attachments=(attachment("gone.txt", "text/plain", b"gone"),)), id="2")
    await servers.reached("b1", "question.asked")
    [refused] = await dead_letters(servers, 1)
    assert "attachments.0.digest" in refused
    assert await servers.types("b2") == []
