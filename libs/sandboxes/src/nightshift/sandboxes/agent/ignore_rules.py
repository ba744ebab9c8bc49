"""Decides which files a search leaves out, like ripgrep: by .ignore files, and within a git repository by
.gitignore.
"""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from .globs import Glob, compile_glob
from .wire import Refusal

_MOST_BYTES = 1 << 20
#: Directories of tools, which a search leaves out unless its path or pattern names them.
TOOL_DIRECTORIES = frozenset((".git", "node_modules", "__pycache__", ".venv"))


class Rule(NamedTuple):
    glob: Glob
    ignores: bool  # False for `!pattern`
    only_directories: bool


class IgnoreRules:
    """The ignore rules of one directory and of those above it. `base` is the path of the directory in the workspace."""

    def __init__(self, base: str, above: IgnoreRules | None = None) -> None:
        self._base = base
        self._above = above
        self._rules: list[Rule] = []
        self._in_git: bool = above._in_git if above is not None else False

    @classmethod
    def of(cls, handle: int, base: str, above: IgnoreRules | None) -> IgnoreRules:
        rules = cls(base, above)
        with contextlib.suppress(OSError):
            os.stat(".git", dir_fd=handle, follow_symlinks=False)
            rules._in_git = True
            rules._read(handle, ".git/info/exclude")
        if rules._in_git:
            rules._read(handle, ".gitignore")
        rules._read(handle, ".ignore")
        rules._read(handle, ".rgignore")
        return rules if rules._rules or above is None or rules._in_git != above._in_git else above

    def _read(self, handle: int, name: str) -> None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        with contextlib.suppress(OSError), os.fdopen(os.open(name, flags, dir_fd=handle), "rb") as file:
            for line in file.read(_MOST_BYTES).decode("utf-8", "replace").splitlines():
                rule = _rule(line)
                if rule is not None:
                    self._rules.append(rule)

    def ignore(self, path: str, directory: bool) -> bool:
        """Return whether the rules ignore this path of the workspace. `directory` says whether the path is a
        directory.

        The last matching rule of the deepest directory decides. Without a matching rule, the path is not ignored.
        """
        rules: IgnoreRules | None = self
        while rules is not None:
            inner = path[len(rules._base) :]
            for rule in reversed(rules._rules):
                if (directory or not rule.only_directories) and rule.glob.match(inner):
                    return rule.ignores
            rules = rules._above
        return False


def _rule(line: str) -> Rule | None:
    text = line.rstrip() if not line.rstrip().endswith("\\") else line
    if not text or text.startswith("#"):
        return None
    ignores = not text.startswith("!")
    text = text if ignores else text[1:]
    only_directories = text.endswith("/")
    try:
        glob = compile_glob(text.rstrip("/").replace("{", "\\{").replace("}", "\\}"))
    except Refusal:
        return None
    return Rule(glob, ignores, only_directories)
