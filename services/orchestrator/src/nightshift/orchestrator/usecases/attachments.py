"""Fetches the attachments of a request from the object store, where the request's sender stored them by their
digests.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

from nightshift.contracts.events.requests import Attachment
from nightshift.eventlog.errors import BadMessage, NotFound
from nightshift.eventlog.large import blob_key
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.orchestrator.domain.attachments import blocks


async def fetch(attachments: Sequence[Attachment], objects: ObjectStore) -> tuple[dict[str, Any], ...]:
    """Return the content blocks of all attachments, in order.

    Raises BadMessage, which names the field, when the store does not have a file or has another one.
    """
    found: list[dict[str, Any]] = []
    for index, one in enumerate(attachments):
        field = f"attachments.{index}"
        body = await _body(one, objects, field)
        found += await asyncio.to_thread(blocks, one, body, field=field)
    return tuple(found)


async def _body(attachment: Attachment, objects: ObjectStore, field: str) -> bytes:
    digest = attachment.digest.removeprefix("sha256:")
    try:
        # One byte more than stated is enough to notice a larger file without reading all of it.
        body = await objects.get_range(blob_key(digest), 0, attachment.bytes + 1)
    except NotFound:
        said = (
            f"`{field}.digest`: the object store has no {blob_key(digest)}; store the file before the request"
        )
        raise BadMessage(said, field=f"{field}.digest") from None
    if len(body) != attachment.bytes:
        said = f"`{field}.bytes`: the stored file has not {attachment.bytes} bytes"
        raise BadMessage(said, field=f"{field}.bytes")
    if await asyncio.to_thread(_digest, body) != digest:
        said = f"`{field}.digest`: the stored file has another digest"
        raise BadMessage(said, field=f"{field}.digest")
    return body


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
