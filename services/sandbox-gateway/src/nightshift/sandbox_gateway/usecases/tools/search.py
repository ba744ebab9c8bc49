"""The search tools: glob and grep."""

from collections.abc import Sequence

from nightshift.contracts.tools import Glob, Grep
from nightshift.sandbox_gateway.domain.call_outcome import CallOutcome
from nightshift.sandbox_gateway.domain.text import escaped
from nightshift.sandbox_gateway.usecases.tools.context import Context
from nightshift.sandboxes.port import GrepQuery, Match


async def glob(ctx: Context, ask: Glob) -> CallOutcome:
    found = await ctx.sandbox.glob(ask.pattern, path=ask.path, limit=ask.limit)
    lines = [escaped(entry.path) for entry in found.entries] or ["[no file matches]"]
    if found.total > len(found.entries):
        lines.append(f"[{found.total - len(found.entries)} more]")
    return CallOutcome("\n".join([*lines, *_notes(found.notes)]))


async def grep(ctx: Context, ask: Grep) -> CallOutcome:
    query = GrepQuery(
        ask.pattern,
        ask.limit,
        ask.path,
        ask.globs(),
        ask.ignore_case,
        ask.multiline,
        ask.output_mode,
        ask.before if ask.before is not None else ask.context,
        ask.after if ask.after is not None else ask.context,
        ask.offset,
    )
    found = await ctx.sandbox.grep(query)
    if ask.output_mode == "content":
        lines = _with_gaps(found.rows, apart=bool(query.before or query.after))
    elif ask.output_mode == "count":
        lines = [f"{escaped(row.path)}:{row.count}" for row in found.rows]
    else:
        lines = [escaped(row.path) for row in found.rows]
    if not found.rows:
        lines = [f"[no more than {ask.offset} matches]" if ask.offset else "[no line matches]"]
    if found.more:
        lines.append("[more lines match]" if ask.output_mode == "content" else "[more files match]")
    return CallOutcome("\n".join([*lines, *_notes(found.notes)]))


def _with_gaps(rows: Sequence[Match], *, apart: bool) -> list[str]:
    """Return the rows as lines of text. If `apart`, a line `--` separates rows that are not consecutive in their
    file.
    """
    lines: list[str] = []
    last = ("", 0)
    for row in rows:
        if apart and lines and (row.path, row.line - 1) != last:
            lines.append("--")
        sign = "-" if row.context else ":"
        lines.append(f"{escaped(row.path)}{sign}{row.line}{sign} {escaped(row.text)}")
        last = (row.path, row.line)
    return lines


def _notes(notes: Sequence[str]) -> list[str]:
    return [f"[{escaped(note)}]" for note in notes]
