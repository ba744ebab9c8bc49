"""Files that `nightshift build --attach` reads: name, digest, size and media type."""

import hashlib
from pathlib import Path

import pytest

from nightshift.cli import attachments
from nightshift.eventlog.errors import NotFound, Refused

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


@pytest.mark.parametrize(
    ("name", "body", "media_type"),
    [
        ("notes.md", b"# Notes", "text/markdown"),
        ("prices.csv", b"a,b\n", "text/csv"),
        ("plan.yaml", b"a: 1\n", "application/yaml"),
        ("sketch.png", PNG, "image/png"),
        ("terms.pdf", b"%PDF-1.7", "application/pdf"),
        ("LICENSE", b"Free for all.", "text/plain"),
        ("blob", b"\0\xff\xfe", "application/octet-stream"),
    ],
)
def test_a_file_is_read_with_its_digest_and_type(tmp_path: Path, name: str, body: bytes, media_type: str):
    (tmp_path / name).write_bytes(body)
    [(one, read)] = attachments.read([tmp_path / name])
    assert (one.name, one.bytes, one.media_type, read) == (name, len(body), media_type, body)
    assert one.digest == f"sha256:{hashlib.sha256(body).hexdigest()}"


def test_a_missing_and_a_huge_file_are_refused(tmp_path: Path):
    with pytest.raises(NotFound, match="cannot be read"):
        attachments.read([tmp_path / "absent.txt"])
    with (tmp_path / "huge.pdf").open("wb") as file:
        file.truncate(30_000_000)
    with pytest.raises(Refused, match="larger than"):
        attachments.read([tmp_path / "huge.pdf"])
