"""Decodes a file for the agent, and edits it without changing its encoding and line endings."""

import codecs
import re
from dataclasses import dataclass
from typing import Final

from nightshift.sandbox_gateway.domain.text import escape_of

#: Byte order marks. UTF-32 comes before UTF-16, because its mark begins with that of UTF-16.
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ENDINGS: Final = {"\r\n": "CRLF", "\n": "LF", "\r": "CR"}
_ENDING = re.compile(r"\r\n|\n|\r")
_NEWLINE = re.compile(r"\r\n|\n")
_SHOWN_ESCAPE = re.compile(r"\\r|\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class FileText:
    """A decoded file. `mark` is its byte order mark, and `endings` counts its line endings by kind."""

    text: str
    encoding: str
    mark: bytes
    endings: dict[str, int]

    @property
    def ending(self) -> str:
        """The most frequent line ending; `\\n` for a file without one."""
        return max(self.endings, key=lambda kind: self.endings[kind], default="\n")

    def lines(self) -> list[str]:
        r"""Return the lines without their endings.

        In a file with several kinds of endings, a lone `\r` stays in its line, so that line numbers are those of other
        programs.
        """
        if set(self.endings) == {"\r"}:
            lines = self.text.split("\r")
        else:
            lines = [line.removesuffix("\r") for line in self.text.split("\n")]
        return lines[:-1] if lines[-1] == "" else lines

    def notes(self) -> list[str]:
        """Return notes about properties that the lines do not show: encoding, line endings, a missing newline at the
        end.
        """
        notes = []
        if self.encoding != "utf-8":
            notes.append(f"encoding: {self.encoding}")
        if self.mark:
            notes.append("begins with a byte order mark")
        if len(self.endings) > 1:
            counts = ", ".join(f"{count} {_ENDINGS[kind]}" for kind, count in self.endings.items())
            notes.append(f"mixed line endings: {counts}")
        elif self.ending != "\n":
            notes.append(f"{_ENDINGS[self.ending]} line endings")
        if self.text and self.text[-1] not in "\r\n":
            notes.append("no newline at the end")
        return notes

    def encode(self, text: str) -> bytes:
        """Return `text` in this file's encoding, after the file's byte order mark.

        Raises UnicodeEncodeError when the encoding lacks a character.
        """
        return self.mark + text.encode(self.encoding)


def decode(data: bytes) -> FileText | None:
    """Decode a file by its byte order mark. If it has no such mark, try UTF-8, then windows-1252 or latin-1.

    Returns None for a binary file. Encoding the text again always gives the same bytes.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return _file_text(data[len(mark) :].decode(encoding), encoding, mark)
            except UnicodeDecodeError:
                break
    if b"\0" in data:
        return None
    encodings = ["utf-8", "latin-1"]
    if re.search(rb"[\x80-\x9f]", data):
        encodings.insert(1, "windows-1252")
    for encoding in encodings:
        try:
            return _file_text(data.decode(encoding), encoding, b"")
        except UnicodeDecodeError:
            continue
    return None


def _file_text(text: str, encoding: str, mark: bytes) -> FileText:
    endings: dict[str, int] = {}
    crlf = text.count("\r\n")
    for kind, count in (("\r\n", crlf), ("\n", text.count("\n") - crlf), ("\r", text.count("\r") - crlf)):
        if count:
            endings[kind] = count
    return FileText(text, encoding, mark, endings)


def with_endings(text: str, ending: str) -> str:
    return text if ending == "\n" else _ENDING.sub(ending.replace("\\", r"\\"), text)


def replace(file: FileText, old: str, new: str, *, everywhere: bool) -> tuple[str, int]:
    r"""Replace the first occurrence of `old` in the file, or all if `everywhere`. Returns the new text and how often
    `old` occurs.

    If the file contains `old` exactly, `new` is inserted unchanged. Otherwise a newline in `old` matches any line
    ending, and an escape such as `\x1b` matches its character. In that case `new` gets the line ending of the file.
    """
    count = file.text.count(old)
    if count and ("\r" not in file.text or "\r" in old + new):
        return file.text.replace(old, new, -1 if everywhere else 1), count
    pattern = _as_shown(old)
    found = list(pattern.finditer(file.text))
    parts, end = [], 0
    for match in found if everywhere else found[:1]:
        ending = _NEWLINE.search(match[0])
        parts += [file.text[end : match.start()], with_endings(new, ending[0] if ending else file.ending)]
        end = match.end()
    return "".join([*parts, file.text[end:]]), len(found)


def _as_shown(old: str) -> re.Pattern[str]:
    """Return a pattern that finds, in a file, the text that the tool `read_file` shows as `old`."""
    pieces, end = [], 0
    for found in re.finditer(f"{_SHOWN_ESCAPE.pattern}|{_ENDING.pattern}", old):
        pieces.append(re.escape(old[end : found.start()]))
        if found[0][0] != "\\":
            pieces.append(r"(?:\r\n|\n|\r(?!\n))")
        else:
            character = "\r" if found[0] == "\\r" else chr(min(int(found[0][2:], 16), 0x10FFFF))
            shown_so = escape_of(character) == found[0]
            pieces.append(
                f"(?:{re.escape(found[0])}|{re.escape(character)})" if shown_so else re.escape(found[0])
            )
        end = found.end()
    return re.compile("".join([*pieces, re.escape(old[end:])]))
