"""Finds and masks the passwords in URLs, so that no log and no terminal shows them."""

import re
from collections.abc import Iterator
from urllib.parse import unquote

MASK = "***"

# The `user:password@` of a URL, anywhere in a text.
_URL_PASSWORD = re.compile(r"(?<=://)([^\s/:@]*):([^\s/@]+)@")


def password_of(text: str) -> Iterator[str]:
    """Yield the password of each URL in a text, both as written (percent-encoded) and decoded."""
    for found in _URL_PASSWORD.finditer(text):
        yield from {found[2], unquote(found[2])}


def hide_passwords(text: str) -> str:
    """Return the text with `***` in place of the password of every URL."""
    return _URL_PASSWORD.sub(rf"\1:{MASK}@", text) if "://" in text else text
