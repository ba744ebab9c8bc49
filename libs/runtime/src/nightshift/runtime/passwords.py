"""Passwords in addresses: for the services, not for those who read a log or look over a shoulder."""

import re

MASK = "***"

# user:password@ in an address, wherever it stands in a text.
_URL_PASSWORD = re.compile(r"(?<=://)([^\s/:@]*):([^\s/@]+)@")


def hide_passwords(text: str) -> str:
    """The text with `***` in place of the password of every address in it."""
    return _URL_PASSWORD.sub(rf"\1:{MASK}@", text) if "://" in text else text
