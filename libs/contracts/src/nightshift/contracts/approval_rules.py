"""Parses and checks the rules of an approval policy, which say which tool calls wait for a person."""

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from nightshift.contracts.events.approvals import ApprovalPolicy
from nightshift.contracts.tools import (
    TOOLS,
    Bash,
    Document,
    EditFile,
    OpenPort,
    ReadFile,
    TakeScreenshot,
    WriteFile,
)

#: Tool → the field of its input that a rule's pattern is compared with.
PATTERN_FIELDS: Final = {
    Bash.tool: "command",
    OpenPort.tool: "port",
    TakeScreenshot.tool: "port",
    **dict.fromkeys((ReadFile.tool, WriteFile.tool, EditFile.tool, Document.tool), "file_path"),
}
_RULE = re.compile(r"([A-Za-z][\w-]*)(?:\((.*)\))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ParsedRule:
    """A parsed rule of an approval policy. If `pattern` is None, the rule matches every call of the tool."""

    text: str
    tool: str
    pattern: str | None


def parse(text: str) -> ParsedRule:
    """Returns the rule in a text such as `bash` or `bash(git push *)`. Raises ValueError for any other text."""
    found = _RULE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no rule: write a tool's name, or `bash(git push *)`")
    pattern = None if found[2] is None else " ".join(found[2].split())
    if pattern is not None and pattern.endswith(":*"):
        pattern = f"{pattern[:-2]} *"  # `bash(git push:*)` is an older form of `bash(git push *)`
    return ParsedRule(text, found[1], None if pattern in (None, "", "*") else pattern)


def mistake_in(policy: ApprovalPolicy, customer_tools: Collection[str] | None) -> tuple[str, str] | None:
    """Returns the wrong field of a policy and the reason, or None when the policy is right.

    A field is wrong when the policy's mode ignores it, or when its rule matches no tool. `customer_tools` are the
    names of the request's own tools; None allows any name.
    """
    if policy.mode != "rules" and (policy.ask or policy.hosts):
        return "mode", f"`ask` and `hosts` belong to the mode `rules`, not to `{policy.mode}`"
    if policy.mode == "rules" and not (policy.ask or policy.hosts):
        return "ask", "the mode `rules` needs `ask` or `hosts`; the mode `never` asks about nothing"
    if policy.mode == "never" and (policy.allow or policy.deadline_s is not None):
        return "mode", "the mode `never` takes no other field"
    rules = [(f"ask.{number}", text) for number, text in enumerate(policy.ask)]
    rules += [(f"allow.{number}", text) for number, text in enumerate(policy.allow)]
    for field, text in rules:
        try:
            _check(parse(text), customer_tools)
        except ValueError as error:
            return field, str(error)
    return None


def _check(rule: ParsedRule, customer_tools: Collection[str] | None) -> None:
    known = [*TOOLS, *(customer_tools or ())]
    if rule.tool not in known and customer_tools is not None:
        close = difflib.get_close_matches(rule.tool.lower(), known, n=1)
        meant = f"; did you mean `{close[0]}`?" if close else f"; there are: {', '.join(known)}"
        raise ValueError(f"{rule.text!r}: there is no tool `{rule.tool}`{meant}")
    if rule.pattern is not None and rule.tool not in PATTERN_FIELDS:
        raise ValueError(f"{rule.text!r}: `{rule.tool}` takes no pattern; write `{rule.tool}` alone")
