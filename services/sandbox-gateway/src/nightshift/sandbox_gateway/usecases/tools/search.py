"""The search tools: glob and grep."""

from nightshift.contracts.tools import Glob, Grep
from nightshift.sandbox_gateway.domain.call_outcome import CallOutcome
from nightshift.sandbox_gateway.domain.text import escaped
from nightshift.sandbox_gateway.usecases.tools.context import Context


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
    text = "\n".join(
        f"{_below(ask.path, match.path)}:{match.line}: {escaped(match.text)}" for match in matches
    )
    return CallOutcome(text + ("\n[more lines match]" if more else ""))


def _below(path: str, found: str) -> str:
    """A found path in the form in which the agent can use it again."""
    base = path.rstrip("/").removesuffix("/.")
    return found if base in (".", "") or found == path else f"{base}/{found}"
