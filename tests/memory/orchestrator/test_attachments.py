"""Attached files reach the model as content blocks; a file that is absent or another one is refused by its field."""

import base64
import hashlib
import json

import pytest
from tests.memory.orchestrator.lone_orchestrator import POLICY, REQUEST, LoneOrchestrator, after_an_hour
from tests.memory.orchestrator.test_waiting import asks_then_ends

from nightshift.contracts.events.requests import Attachment, BuildRequested
from nightshift.devstack.model.conversation import validate
from nightshift.eventlog.errors import BadMessage
from nightshift.eventlog.large import blob_key
from nightshift.orchestrator.domain.commands import Begin
from nightshift.orchestrator.domain.decide import decide
from nightshift.orchestrator.domain.prompt import RenderedMessages, request_bytes

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 40_000
PDF = b"%PDF-1.7\n" + b"x" * 60_000
FILES = {
    "notes.md": ("text/markdown", "Prices: ten złoty.\n".encode()),
    "shot.png": ("image/png", PNG),
    "terms.pdf": ("application/pdf", PDF),
}


def attachment(name: str, media_type: str, body: bytes) -> Attachment:
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    return Attachment(name=name, digest=digest, bytes=len(body), media_type=media_type)


def asking(*attachments: Attachment, build_id: str = "b2") -> BuildRequested:
    return REQUEST.model_copy(update={"build_id": build_id, "attachments": attachments})


def accepting(request: BuildRequested, stored: list[bytes]) -> LoneOrchestrator:
    async def accept(orchestrator: LoneOrchestrator) -> None:
        for body in stored:
            await orchestrator.objects.put(blob_key(hashlib.sha256(body).hexdigest()), body)
        await orchestrator.builds.accept(request)
        await orchestrator.builds.accept(request)  # delivered again

    return after_an_hour(asks_then_ends(), accept)


def test_files_become_content_blocks_of_the_first_message() -> None:
    given = [attachment(name, *rest) for name, rest in FILES.items()]
    seen: dict = {}

    async def accept(orchestrator: LoneOrchestrator) -> None:
        for _, body in FILES.values():
            await orchestrator.objects.put(blob_key(hashlib.sha256(body).hexdigest()), body)
        await orchestrator.builds.accept(asking(*given))
        state = await orchestrator.builds._load("b2")
        rendered = RenderedMessages(await orchestrator.builds._repository.attachments(state))
        seen.update(json.loads(request_bytes(state, POLICY, rendered)))
        # The provider counts the tokens of a PDF before money is asked for.
        begun = decide(state, Begin(), orchestrator.now(), POLICY)
        assert [event.type for event in begun] == ["build.phase_changed"]

    after_an_hour(asks_then_ends(), accept)
    validate(seen)
    blocks = seen["messages"][0]["content"]
    assert [block["type"] for block in blocks] == ["text", "text", "image", "text", "document", "text"]
    assert "ten złoty" in blocks[0]["text"]
    assert base64.b64decode(blocks[2]["source"]["data"]) == PNG
    assert base64.b64decode(blocks[4]["source"]["data"]) == PDF


@pytest.mark.parametrize(
    ("given", "stored", "field", "said"),
    [
        (
            attachment("a.txt", "text/plain", b"hello"),
            [],
            "attachments.0.digest",
            "the object store has no blobs/",
        ),
        (attachment("a.txt", "text/plain", b"\xff\xfe"), [b"\xff\xfe"], "attachments.0.media_type", "UTF-8"),
        (
            attachment("a.png", "image/png", b"GIF89a"),
            [b"GIF89a"],
            "attachments.0.media_type",
            "no image/png",
        ),
        (
            attachment("a.txt", "text/plain", b"hello").model_copy(update={"bytes": 3}),
            [b"hello"],
            "attachments.0.bytes",
            "has not 3 bytes",
        ),
    ],
    ids=["absent", "not text", "not a PNG", "another size"],
)
def test_an_absent_or_wrong_file_is_refused_by_its_field(given, stored, field, said) -> None:
    with pytest.raises(BadMessage, match=said) as refused:
        accepting(asking(given), stored)
    assert refused.value.field == field
