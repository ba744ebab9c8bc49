"""The forms in which a secret's value may occur in text: unchanged, escaped, quoted, reversed, in hex or in base64."""

import base64
import json
from collections.abc import Iterator
from urllib.parse import quote, quote_plus


def forms(value: str) -> Iterator[str]:
    """Yield the value and its encoded forms.

    The base64 form depends on how many bytes precede the value. So base64 is yielded for each of the three shifts,
    without the characters at both ends that neighbouring bytes influence.
    """
    raw = value.encode()
    yield value
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield quote(value, safe="")
    yield quote_plus(value)
    yield raw.hex()
    yield raw.hex().upper()
    yield value[::-1]
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for shift in range(3):
            whole = encode(b"\0" * shift + raw).decode()
            start = (shift * 8 + 5) // 6
            inner = whole[start : (shift + len(raw)) * 8 // 6]
            if len(inner) >= 6:
                yield inner
