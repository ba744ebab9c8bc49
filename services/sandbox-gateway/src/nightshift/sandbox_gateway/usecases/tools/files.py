"""The file tools: read_file, write_file, edit_file, document, glob and grep."""

import hashlib
import json

from nightshift.contracts.tools import Document, EditFile, Glob, Grep, ReadFile, WriteFile
from nightshift.sandbox_gateway.domain.call_outcome import CallOutcome
from nightshift.sandbox_gateway.domain.text import escaped
from nightshift.sandbox_gateway.usecases.tools.context import Context
from nightshift.sandboxes.errors import FileRefused

_READ_BYTES = 8 * 1024 * 1024
_LINE = 2000


async def read_file(ctx: Context, ask: ReadFile) -> CallOutcome:
    data = await ctx.sandbox.read_file(ask.file_path, limit=_READ_BYTES)
    if b"\0" in data[:8192]:
        return CallOutcome(f"{ask.file_path}: a binary file of {len(data)} bytes or more", "tool")
    lines = data.decode("utf-8", "replace").split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        return CallOutcome("[the file is empty]")
    if ask.offset > len(lines):
        return CallOutcome(f"offset: the file has {len(lines)} lines", "bad_input")
    shown = lines[ask.offset - 1 : ask.offset - 1 + ask.limit]
    text = "\n".join(f"{number:6}\t{escaped(line[:_LINE])}" for number, line in enumerate(shown, ask.offset))
    more = len(lines) - (ask.offset - 1 + len(shown))
    return CallOutcome(text + (f"\n[{more} more lines]" if more else ""))


async def write_file(ctx: Context, ask: WriteFile | Document) -> CallOutcome:
    """Write the whole file. After a crash the call is done again, which changes nothing."""
    body = ask.content.encode("utf-8", "replace")
    await ctx.sandbox.write_file(ask.file_path, body, once=ctx.call_id)
    lines = ask.content.count("\n") + (not ask.content.endswith("\n"))
    return CallOutcome(f"wrote {ask.file_path} ({lines} lines, {len(body)} bytes)")


async def edit_file(ctx: Context, ask: EditFile) -> CallOutcome:
    """Replace text. Notes the new digest first, so that after a crash a finished edit is not applied to its own
    result.
    """
    before = await ctx.sandbox.read_file(ask.file_path, limit=_READ_BYTES + 1)
    if len(before) > _READ_BYTES:
        return CallOutcome(f"{ask.file_path}: larger than {_READ_BYTES} bytes; edit it with bash", "tool")
    noted = await ctx.sandbox.note(ctx.call_id)
    if noted is not None and (done := json.loads(noted))["after"] == _digest(before):
        return CallOutcome(done["output"])
    try:
        text = before.decode("utf-8")
    except UnicodeDecodeError:
        return CallOutcome(f"{ask.file_path}: not UTF-8 text; edit it with bash", "tool")
    count = text.count(ask.old_string)
    if count == 0:
        return CallOutcome(f"old_string is not in {ask.file_path}: 0 matches; nothing was changed", "tool")
    if count > 1 and not ask.replace_all:
        return CallOutcome(
            f"old_string is {count} times in {ask.file_path}; nothing was changed. Give more of the text around it,"
            " or set replace_all",
            "tool",
        )
    after = text.replace(ask.old_string, ask.new_string).encode("utf-8", "replace")
    output = f"edited {ask.file_path}: {count} replacement{'s' if count > 1 else ''}"
    await ctx.sandbox.note(ctx.call_id, json.dumps({"after": _digest(after), "output": output}))
    ctx.fail.reach("after_note")
    await ctx.sandbox.write_file(ask.file_path, after, once=ctx.call_id)
    ctx.fail.reach("after_run")
    return CallOutcome(output)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def glob(ctx: Context, ask: Glob) -> CallOutcome:
    entries, total = await ctx.sandbox.glob(ask.pattern, path=ask.path, limit=ask.limit)
    if not entries:
        return CallOutcome("[no file matches]")
    text = "\n".join(_below(ask.path, entry.path) for entry in entries)
    return CallOutcome(text + (f"\n[{total - len(entries)} more]" if total > len(entries) else ""))


async def grep(ctx: Context, ask: Grep) -> CallOutcome:
    matches, more = await ctx.sandbox.grep(
        ask.pattern, path=ask.path, glob=ask.glob, ignore_case=ask.ignore_case, limit=ask.limit
    )
    if not matches:
        return CallOutcome("[no line matches]")
    text = "\n".join(f"{_below(ask.path, match.path)}:{match.line}: {escaped(match.text)}" for match in matches)
    return CallOutcome(text + ("\n[more lines match]" if more else ""))


def _below(path: str, found: str) -> str:
    """A found path in the form in which the agent can use it again."""
    base = path.rstrip("/").removesuffix("/.")
    return found if base in (".", "") or found == path else f"{base}/{found}"


def refused(error: FileRefused) -> CallOutcome:
    """The outcome for a file operation that was refused."""
    return CallOutcome(str(error), "refused" if error.kind == "outside" else "tool")
