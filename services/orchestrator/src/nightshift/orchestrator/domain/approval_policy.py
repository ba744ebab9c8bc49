"""Decides whether a policy lets a tool call run at once, or says why a person must approve it.

In doubt, a person must approve the call.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from nightshift.contracts.approval_rules import PATTERN_FIELDS, ParsedRule, parse
from nightshift.contracts.events.approvals import ApprovalPolicy
from nightshift.contracts.tools import TOOLS, AskUser, Bash, Narrate
from nightshift.orchestrator.domain import approval_patterns
from nightshift.orchestrator.domain.approval_patterns import UNKNOWN
from nightshift.orchestrator.domain.shell_commands import ShellText, Words, program, read_shell

#: Tools whose calls never need an approval.
_NEVER_ASKED = frozenset({AskUser.tool, Narrate.tool})
_NETWORK_PROGRAMS = frozenset(
    {"curl", "wget", "ssh", "scp", "sftp", "rsync", "nc", "ncat", "telnet", "ftp", "http"}
)
#: What separates the words of a command, any of which may be a host.
_BETWEEN = re.compile(r"[\s\"'`;|&()<>=,\\]+")
#: The most characters of a command in a reason.
_SHOWN = 160


def reason_to_ask(policy: ApprovalPolicy | None, tool: str, given: Mapping[str, Any]) -> str | None:
    """Return why a person must approve this call, or None when the call may run."""
    if policy is None or policy.mode == "never" or tool in _NEVER_ASKED:
        return None
    fields = _fields(tool, given)
    if fields is None or (tool == Bash.tool and fields["action"] in {"read", "stop"}):
        return None
    command = fields["command"] if tool == Bash.tool else None
    shell = None if command is None else read_shell(command)
    reason = "the policy asks for every call"
    if policy.mode == "rules":
        found = next(_reasons(policy, tool, fields, shell), None)
        if found is None:
            return None
        reason = found
    return None if _is_allowed(policy, tool, fields, shell) else reason


def _fields(tool: str, given: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the input of a tool call with the defaults of the tool's fields.

    Returns None for an invalid input, which the sandbox gateway refuses without running the tool.
    """
    model = TOOLS.get(tool)
    if model is None:
        return given
    try:
        return model.model_validate(given).model_dump()
    except ValidationError:
        return None


def _reasons(
    policy: ApprovalPolicy, tool: str, fields: Mapping[str, Any], shell: ShellText | None
) -> Iterator[str]:
    for rule in map(_parsed, policy.ask):
        if rule.tool != tool:
            continue
        if rule.pattern is None:
            yield f"the rule {rule.text} asks"
        elif shell is not None:
            yield from _command_reasons(rule, rule.pattern, shell)
        elif _value_matches(rule.pattern, tool, fields):
            yield f"the rule {rule.text} asks"
    if shell is not None and policy.hosts:
        yield from _host_reasons(policy, fields["command"], shell)


def _command_reasons(rule: ParsedRule, pattern: str, shell: ShellText) -> Iterator[str]:
    for words in (*shell.commands, *shell.wrapped):
        if approval_patterns.command_matches(pattern, words):
            yield f"the rule {rule.text} asks about `{_shown(words)}`"
    if any(approval_patterns.phrase_in(pattern, code) for code in shell.code):
        yield f"the rule {rule.text} may ask about the code in it"
    if shell.doubt is not None:
        yield f"the rule {rule.text} may ask: {shell.doubt}"


def _host_reasons(policy: ApprovalPolicy, command: str, shell: ShellText) -> Iterator[str]:
    named, bare = _hosts_in(command.replace("\\\n", ""))
    for pattern in policy.hosts:
        # A word such as `app.py` looks like a host, too. So the pattern `*` applies only to hosts of URLs and after
        # user names.
        for host in named if pattern == "*" else (*named, *bare):
            if host_matches(pattern, host):
                yield f"the command names the host {host[:_SHOWN]}"
    for words in (*shell.commands, *shell.wrapped):
        if program(words) in _NETWORK_PROGRAMS and (None in words or "*" in policy.hosts):
            yield f"`{_shown(words)}` may reach a host of the policy"
    if shell.doubt is not None:
        yield f"the command may name a host of the policy: {shell.doubt}"


def _hosts_in(text: str) -> tuple[list[str], list[str]]:
    """Return two lists: the hosts in URLs and after `user@`, and the other words of the text that may be hosts."""
    named, bare = [], []
    for word in _BETWEEN.split(text):
        _, is_url, rest = word.partition("://")
        before, after_user, host = (rest if is_url else word).partition("/")[0].rpartition("@")
        host = re.split(r"[:?#\]]", host.lstrip("["), maxsplit=1)[0]
        if is_url or (after_user and before):
            named.append(host)
        elif "." in host:
            bare.append(host)
    return named, bare


def host_matches(pattern: str, host: str) -> bool:
    """Return whether the host equals the pattern, or is below the domain of a pattern that begins with `*.`.

    The pattern `*` matches every host.
    """
    pattern, host = pattern.lower(), host.lower().rstrip(".")
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return pattern in ("*", host)


def _is_allowed(
    policy: ApprovalPolicy, tool: str, fields: Mapping[str, Any], shell: ShellText | None
) -> bool:
    rules = [rule for rule in map(_parsed, policy.allow) if rule.tool == tool]
    if any(rule.pattern is None for rule in rules):
        return True
    patterns = [rule.pattern for rule in rules if rule.pattern is not None]
    if shell is None:
        return any(_value_matches(pattern, tool, fields) for pattern in patterns)
    if shell.doubt is not None or shell.changes or not shell.commands:
        return False
    return all(
        any(approval_patterns.is_allowed(pattern, words) for pattern in patterns) for words in shell.commands
    )


def _value_matches(pattern: str, tool: str, fields: Mapping[str, Any]) -> bool:
    value = fields.get(PATTERN_FIELDS[tool])
    if PATTERN_FIELDS[tool] == "file_path":
        return approval_patterns.path_matches(pattern, str(value))
    return value is not None and approval_patterns.glob(pattern, str(value))


@lru_cache(1024)
def _parsed(text: str) -> ParsedRule:
    return parse(text)


def _shown(words: Words) -> str:
    text = " ".join("…" if word is None else " ".join(word.split()) for word in words)
    text = text.replace(UNKNOWN, "…")
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
