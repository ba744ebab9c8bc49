"""Cleans the output of tools: removes control codes, masks secrets, and limits the length."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nightshift.sandboxes.egress.secret_forms import forms

#: The most characters, and the most bytes, of a result. A longer result loses its middle.
LIMIT = 30_000
_SHORTEST_SECRET = 4

#: Complete escape sequences. Everything else stays visible, so nothing can hide the text that follows it. An 8-bit
#: CSI counts only with a parameter, because text encoded twice holds U+009B. A string ends on its own line.
_ESCAPES = re.compile(
    r"""
      \x1b\[ [0-?]* (?:[ ]q | ![p] | [$"'*+,] [@-~] | [@-~])     # CSI: colours, cursor
    | \x9b [0-?]+ [@-~]
    | (?:\x1b[\]PX^_] | [\x9d\x90\x98\x9e\x9f]) [^\x00-\x1f\x80-\x9f]* (?:\x07 | \x1b\\ | \x9c)  # OSC …
    | \x1b [()*+] [0AB] | \x1b [=>78] | \x1b c (?![a-z]) | \x1b [DEHM] (?![A-Za-z])
    """,
    re.VERBOSE,
)
_ERASE_LINE = re.compile(r"\x1b\[([0-2]?)K")
_TO_START = re.compile(r"\x1b\[[01]?G")
_OVERSTRUCK = re.compile(r"_\x08(?=[^\s\x08])|(.)\x08(?=\1)")
_INVISIBLE = re.compile(
    r"[\x00\x07\x08\x7f"  # a terminal shows nothing for them
    r"\u200e\u200f\u202a-\u202e\u2066-\u2069\u061c"  # direction
    r"\U000e0000-\U000e007f]"  # tags: text nobody sees
)
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\u061c"
    r"\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(data: bytes | str) -> str:
    r"""Return the text that a terminal would finally show.

    Removes complete escape sequences, and text that was overwritten after a `\r`. Shows other control characters as
    `\x1b`.
    """
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    text = _TO_START.sub("\r", text.replace("\r\n", "\n"))
    if "\r" in text:
        text = "\n".join(_overwritten(line) if "\r" in line else line for line in text.split("\n"))
    text = _OVERSTRUCK.sub("", _ESCAPES.sub("", text))
    return escaped(_INVISIBLE.sub("", text))


def escaped(text: str) -> str:
    """Return the text with each control or invisible character as `\\x1b` or `\\u202e`. Keeps newline and tab."""
    return _CONTROLS.sub(lambda found: escape_of(found[0]), text)


def escape_of(character: str) -> str:
    code = ord(character)
    if character == "\r":
        return "\\r"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _overwritten(line: str) -> str:
    r"""Return the text that a terminal finally shows for a line whose parts overwrite each other after `\r`."""
    shown: list[str] = []
    for part in _ERASE_LINE.sub(_as_control, line).split("\r"):
        column = 0
        for erase, text in _erasures(_ESCAPES.sub("", part)):
            if erase:
                del shown[column if erase == _TO_END else 0 :]
                column = min(column, len(shown))
            shown[column : column + len(text)] = text
            column += len(text)
    return "".join(shown)


#: Private-use characters that stand for "erase to the end of the line" and "erase the line". Real output lacks them.
_TO_END, _WHOLE = "\ue0f0", "\ue0f1"


def _as_control(found: re.Match[str]) -> str:
    return {"": _TO_END, "0": _TO_END, "2": _WHOLE}.get(found[1], "")


def _erasures(part: str) -> Iterable[tuple[str, str]]:
    """Split a line at the control codes that erase text. Yields (code, text) for each piece: the code before the text,
    and the text.

    The code of the first piece is empty.
    """
    pieces = re.split(f"([{_TO_END}{_WHOLE}])", part)
    yield "", pieces[0]
    yield from zip(pieces[1::2], pieces[2::2], strict=True)


class Mask:
    """Replaces secrets in a text by `[secret NAME]`, also in encoded forms such as base64, hex and URL quoting."""

    def __init__(self, secrets: Mapping[str, Sequence[str]]) -> None:
        """`secrets` maps the name of each secret to its values.

        Values under four characters are not masked, because such short texts also occur in ordinary words.
        """
        self._names: dict[str, str] = {}
        for name, values in secrets.items():
            for value in values:
                if len(value) >= _SHORTEST_SECRET:
                    self._names.update(dict.fromkeys(forms(value), name))
        longest_first = sorted(self._names, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda found: f"[secret {self._names[found[0]]}]", text)


@dataclass(frozen=True, slots=True)
class Cut:
    text: str
    truncated: bool


def cut(text: str, *, limit: int = LIMIT, where: str | None = None) -> Cut:
    """Shorten a text to about `limit` characters and bytes: its beginning, a note, its end. A text within the limit
    stays unchanged.

    If `where` is given, the note says that the whole text is there.
    """
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
