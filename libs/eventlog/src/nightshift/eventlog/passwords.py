"""Passwords in addresses: for the services, not for those who read a log or look over a shoulder."""

import re
from collections.abc import Iterator
from urllib.parse import unquote

MASK = "***"

# user:password@ in an address, wherever it stands in a text.
_URL_PASSWORD = re.compile(r"(?<=://)([^\s/:@]*):([^\s/@]+)@")


def password_of(text: str) -> Iterator[str]:
    """The passwords of the addresses in a text, as they are written and as they are meant."""
    for found in _URL_PASSWORD.finditer(text):
        yield from {found[2], unquote(found[2])}


def hide_passwords(text: str) -> str:
    """The text with `***` in place of the password of every address in it."""
    return _URL_PASSWORD.sub(rf"\1:{MASK}@", text) if "://" in text else text
