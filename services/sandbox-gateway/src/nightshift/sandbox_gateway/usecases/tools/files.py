"""The file tools: read_file, write_file, edit_file and document."""

import base64
import hashlib
import json

from nightshift.contracts.tools import Document, EditFile, ReadFile, WriteFile
from nightshift.sandbox_gateway.domain import file_text, images
from nightshift.sandbox_gateway.domain.call_outcome import CallOutcome
from nightshift.sandbox_gateway.domain.file_text import FileText
from nightshift.sandbox_gateway.domain.text import escaped
from nightshift.sandbox_gateway.usecases.tools.context import Context
from nightshift.sandboxes.errors import FileRefused

_READ_BYTES = 8 * 1024 * 1024
_LINE = 2000
#: The most bytes of a PDF. Each byte counts as a token until the provider has counted the request, and a context has a
#: few hundred thousand tokens.
_PDF_BYTES = 1_000_000


async def read_file(ctx: Context, ask: ReadFile) -> CallOutcome:
    data = await ctx.sandbox.read_file(ask.file_path, limit=_READ_BYTES + 1, anywhere=True)
    image = images.recognise(data, len(data))
    if image is not None:
        return _image(ask.file_path, data, image)
    if b"%PDF-" in data[:1024]:
        return _pdf(ask.file_path, data)
    file = file_text.decode(data if len(data) <= _READ_BYTES else _beginning(data))
    if file is None:
        size = f"{len(data)} bytes" if len(data) <= _READ_BYTES else f"more than {_READ_BYTES} bytes"
        return CallOutcome(f"{ask.file_path}: a binary file of {size}; look at it with bash", "tool")
    lines, notes = file.lines(), file.notes()
    if not file.text:
        return CallOutcome("; ".join(["[the file is empty", *notes]) + "]")
    if len(data) > _READ_BYTES:
        notes = [note for note in notes if not note.startswith("no newline")]
        notes.append(f"only the first {_READ_BYTES} bytes of the file were read; see the rest with bash")
    first = max(ask.offset, 1)
    if first > len(lines):
        return CallOutcome("; ".join([f"offset: the file has {len(lines)} lines", *notes]), "bad_input")
    shown = lines[first - 1 : first - 1 + ask.limit]
    text = "\n".join(f"{number:6}\t{_shown(line)}" for number, line in enumerate(shown, first))
    more = len(lines) - (first - 1 + len(shown))
    notes = ([f"{more} more lines"] if more else []) + notes
    return CallOutcome(text + (f"\n[{'; '.join(notes)}]" if notes else ""))


def _shown(line: str) -> str:
    if len(line) <= _LINE:
        return escaped(line)
    return f"{escaped(line[:_LINE])} [... {len(line) - _LINE} more characters in this line]"


def _beginning(data: bytes) -> bytes:
    """Return the first bytes of a file that is too large to read whole. Leaves out a UTF-8 character that is incomplete
    at the end.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or data[:4] == b"\0\0\xfe\xff":
        return data[:_READ_BYTES]
    for size in range(_READ_BYTES, _READ_BYTES - 4, -1):
        if data[size] & 0xC0 != 0x80:  # not the inner byte of a UTF-8 character
            return data[:size]
    return data[:_READ_BYTES]


def _image(path: str, data: bytes, image: images.Image) -> CallOutcome:
    if image.problem is not None:
        return CallOutcome(f"{path}: {image.media_type}, cannot be shown: {image.problem}", "tool")
    text = f"{path}: {image.media_type}, {image.width}×{image.height} pixels, {len(data)} bytes"
    encoded = base64.b64encode(data).decode("ascii")
    source = {"type": "base64", "media_type": image.media_type, "data": encoded}
    return CallOutcome(text, blocks=({"type": "text", "text": text}, {"type": "image", "source": source}))


def _pdf(path: str, data: bytes) -> CallOutcome:
    """Return a PDF file as a document block, which the model reads as text and as pictures. Returns an error for the
    agent if it is too large.
    """
    if len(data) > _PDF_BYTES:
        problem = f"larger than the {_PDF_BYTES} bytes that can be shown; look at it with bash (pdftotext)"
        return CallOutcome(f"{path}: application/pdf, {problem}", "tool")
    text = f"{path}: application/pdf, {len(data)} bytes"
    source = {
        "type": "base64",
        "media_type": "application/pdf",
        "data": base64.b64encode(data).decode("ascii"),
    }
    return CallOutcome(text, blocks=({"type": "text", "text": text}, {"type": "document", "source": source}))


async def write_file(ctx: Context, ask: WriteFile | Document) -> CallOutcome:
    """Write a whole file. If the call is repeated after a crash, the second write changes nothing.

    An existing file keeps its encoding, byte order mark and line endings.
    """
    before = await _existing(ctx, ask.file_path)
    content, notes = ask.content, []
    if before is not None and list(before.endings) in (["\r\n"], ["\r"]) and "\r" not in content:
        content = file_text.with_endings(content, before.ending)
    try:
        body = content.encode("utf-8", "replace") if before is None else before.encode(content)
        notes = (
            [] if before is None else [note for note in before.notes() if not note.startswith("no newline")]
        )
    except UnicodeEncodeError:
        body = content.encode("utf-8", "replace")
        notes = ["now in UTF-8"]
    await ctx.sandbox.write_file(ask.file_path, body, once=ctx.call_id)
    lines = ask.content.count("\n") + (not ask.content.endswith("\n"))
    kept = "".join(f"; {note}" for note in notes if "mixed" not in note)
    return CallOutcome(f"wrote {ask.file_path} ({lines} lines, {len(body)} bytes{kept})")


async def _existing(ctx: Context, path: str) -> FileText | None:
    """Return the text of a file. Returns None when the file does not exist, is empty, binary or too large, or cannot be
    read.
    """
    try:
        data = await ctx.sandbox.read_file(path, limit=_READ_BYTES + 1)
    except FileRefused:
        return None
    return file_text.decode(data) if 0 < len(data) <= _READ_BYTES else None


async def edit_file(ctx: Context, ask: EditFile) -> CallOutcome:
    """Replace text in a file.

    First stores the digest of the new content in the sandbox. So when the call is repeated after a crash, it detects
    that the file is edited already.
    """
    if not ask.old_string:
        return await _create(ctx, ask)
    before = await ctx.sandbox.read_file(ask.file_path, limit=_READ_BYTES + 1)
    if len(before) > _READ_BYTES:
        return CallOutcome(f"{ask.file_path}: larger than {_READ_BYTES} bytes; edit it with bash", "tool")
    noted = await ctx.sandbox.note(ctx.call_id)
    if noted is not None and (done := json.loads(noted))["after"] == _digest(before):
        return CallOutcome(done["output"])
    file = file_text.decode(before)
    if file is None:
        return CallOutcome(f"{ask.file_path}: a binary file; edit it with bash", "tool")
    text, count = file_text.replace(file, ask.old_string, ask.new_string, everywhere=ask.replace_all)
    if count == 0:
        return CallOutcome(f"old_string is not in {ask.file_path}: 0 matches; nothing was changed", "tool")
    if count > 1 and not ask.replace_all:
        return CallOutcome(
            f"old_string is {count} times in {ask.file_path}; nothing was changed. Give more of the text around it,"
            " or set replace_all",
            "tool",
        )
    try:
        after = file.encode(text)
    except UnicodeEncodeError as error:
        wrong = escaped(error.object[error.start : error.end])
        return CallOutcome(
            f"{ask.file_path} is in {file.encoding}, which has no {wrong!r}; nothing was changed", "tool"
        )
    output = f"edited {ask.file_path}: {count} replacement{'s' if count > 1 else ''}"
    await ctx.sandbox.note(ctx.call_id, json.dumps({"after": _digest(after), "output": output}))
    ctx.fail.reach("after_note")
    await ctx.sandbox.write_file(ask.file_path, after, once=ctx.call_id)
    ctx.fail.reach("after_run")
    return CallOutcome(output)


async def _create(ctx: Context, ask: EditFile) -> CallOutcome:
    """Create a file for an edit with an empty `old_string`, unless the file exists with other content."""
    body = ask.new_string.encode("utf-8", "replace")
    try:
        before = await ctx.sandbox.read_file(ask.file_path, limit=len(body) + 1)
    except FileRefused as error:
        if error.kind != "not_found":
            raise
        before = b""
    if before not in (b"", body):
        return CallOutcome(
            f"{ask.file_path} exists and is not empty; give the text to replace as old_string, or use write_file",
            "tool",
        )
    await ctx.sandbox.write_file(ask.file_path, body, once=ctx.call_id)
    return CallOutcome(f"created {ask.file_path} ({len(body)} bytes)")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def refused(error: FileRefused) -> CallOutcome:
    """Return the failed outcome of a file operation that the sandbox refused, such as reading a missing file."""
    return CallOutcome(str(error), "refused" if error.kind == "outside" else "tool")
