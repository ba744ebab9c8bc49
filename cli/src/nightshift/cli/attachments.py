"""Stores the files that a request attaches in the object store."""

import hashlib
import mimetypes
from collections.abc import Sequence
from pathlib import Path

from nightshift.cli.connect import settings_for
from nightshift.contracts.events.requests import Attachment
from nightshift.eventlog.errors import NotFound, Refused
from nightshift.eventlog.large import put_blob
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.settings import ObjectStoreSettings

#: The largest file in bytes that is read. The orchestrator has lower limits for each kind of file.
_MAX_FILE = 20_000_000
_TEXT = "text/plain"
#: Media types that are missing in some of Python's tables.
_TYPES = {
    ".md": "text/markdown",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".toml": "application/toml",
    ".webp": "image/webp",
}


def read(files: Sequence[Path]) -> list[tuple[Attachment, bytes]]:
    """Returns each file as an Attachment (name, digest, media type) and its bytes.

    Raises NotFound for a file that cannot be read, and Refused for one that is too large.
    """
    return [_read(file) for file in files]


async def store(home: Path, attached: Sequence[tuple[Attachment, bytes]]) -> None:
    """Stores the files in the installation's object store. A file that the store has already is not sent again."""
    async with S3ObjectStore(settings_for(ObjectStoreSettings, home)) as objects:
        for _, body in attached:
            await put_blob(body, objects)


def _read(file: Path) -> tuple[Attachment, bytes]:
    try:
        if file.stat().st_size > _MAX_FILE:
            raise Refused(f"{file} is larger than {_MAX_FILE:,} bytes", hint="attach the part that matters")
        body = file.read_bytes()
    except OSError as error:
        raise NotFound(f"{file} cannot be read: {error.strerror}") from error
    known = _TYPES.get(file.suffix.lower()) or mimetypes.guess_type(file.name)[0]
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    media_type = known or (_TEXT if _is_text(body) else "application/octet-stream")
    return Attachment(name=file.name, digest=digest, bytes=len(body), media_type=media_type), body


def _is_text(body: bytes) -> bool:
    try:
        return "\0" not in body.decode("utf-8")
    except UnicodeDecodeError:
        return False
