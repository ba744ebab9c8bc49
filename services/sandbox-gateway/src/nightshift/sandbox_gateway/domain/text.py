"""Cleans the output of tools: removes control codes, masks secrets, and limits the length."""

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

#: Characters, and bytes, of a result; a longer one loses its middle.
LIMIT = 30_000
_SHORTEST_SECRET = 4

_ESCAPES = re.compile(
    r"""
      \x1b\[ [0-?]* [ -/]* [@-~]                 # CSI: colours, cursor
    | \x9b [0-?]* [ -/]* [@-~]
    | (?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f]) .*? (?:\x07|\x1b\\|\x9c|\Z)   # OSC, DCS, SOS, PM, APC with their text
    | \x1b [ -/]* [0-~]                          # the other escapes
    """,
    re.VERBOSE | re.DOTALL,
)
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"
    r"\u200e\u200f\u202a-\u202e\u2066-\u2069\u061c"  # direction
    r"\U000e0000-\U000e007f]"  # tags: text nobody sees
)


def printable(data: bytes | str) -> str:
    """Remove escape sequences and control characters except newline and tab. Keeps what follows the last `\\r` of a
    line.
    """
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    text = text.replace("\r\n", "\n")
    text = _ESCAPES.sub("", text)
    text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    text = _CONTROLS.sub("", text)
    return text.encode("utf-8", "replace").decode("utf-8")


class Mask:
    """Replaces secrets by `[secret NAME]`, also in encoded forms such as base64, hex and URL quoting."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        """`secrets` maps names to values. Values under four characters are not masked: they occur in ordinary words."""
        self._names: dict[str, str] = {}
        for name, value in secrets.items():
            if len(value) >= _SHORTEST_SECRET:
                self._names.update(dict.fromkeys(_forms(value), name))
        longest_first = sorted(self._names, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda found: f"[secret {self._names[found[0]]}]", text)


def _forms(value: str) -> Iterable[str]:
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
        for shift in range(
            3
        ):  # wherever it stands in what was encoded: only the characters that are its alone
            whole = encode(b"\0" * shift + raw).decode()
            start = (shift * 8 + 5) // 6
            inner = whole[start : (shift + len(raw)) * 8 // 6]
            if len(inner) >= 6:
                yield inner


@dataclass(frozen=True, slots=True)
class Cut:
    text: str
    truncated: bool


def cut(text: str, *, limit: int = LIMIT, where: str | None = None) -> Cut:
    """Shorten to about `limit` characters and bytes: beginning, a note, end. `where` is the key of the whole text."""
    if len(text) <= limit and len(text.encode()) <= limit:
        return Cut(text, False)
    head, tail = _first_bytes(text, limit // 2), _last_bytes(text, limit // 2)
    rest = f"; the whole is in {where}" if where else ""
    note = f"\n\n[... {len(text) - len(head) - len(tail)} characters cut{rest} ...]\n\n"
    return Cut(head + note + tail, True)


def _first_bytes(text: str, size: int) -> str:
    return text[:size].encode()[:size].decode("utf-8", "ignore")


def _last_bytes(text: str, size: int) -> str:
    return text[-size:].encode()[-size:].decode("utf-8", "ignore")
