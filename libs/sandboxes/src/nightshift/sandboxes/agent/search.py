"""Finds files by name and lines by pattern. A search runs in its own process, which SIGALRM kills after a time
limit.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import signal
from collections.abc import Iterator
from typing import Any

from .confined_paths import Root, problem
from .files import describe
from .globs import Glob, compile_glob, has_class
from .ignore_rules import TOOL_DIRECTORIES, IgnoreRules
from .lines import Query
from .wire import Refusal

_NAMED = 5


class Tree:
    """A walk over a directory of the workspace. It counts the paths that it left out, for a note to the caller."""

    def __init__(self, root: Root, path: str, patterns: list[str]) -> None:
        self._root = root
        self._path = path
        parts = root.relative(path)
        self._prefix = "/".join(parts) + "/" if parts else ""
        named = set(parts).union(*(pattern.split("/") for pattern in patterns))
        self._skipped = TOOL_DIRECTORIES - named
        self._globs = [compile_glob(pattern) for pattern in patterns]
        self._ignored: list[str] = []
        self._unreadable: list[str] = []

    def walk(self) -> Iterator[tuple[dict[str, Any], int, str]]:
        """Yield each file and symlink with the handle of its directory and its name.

        Names are sorted within a directory.
        """
        start = self._root.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        stack = [(start, "", iter(sorted(os.listdir(start))), self._rules(start))]
        try:
            while stack:
                handle, prefix, names, rules = stack[-1]
                name = next(names, None)
                if name is None:
                    os.close(stack.pop()[0])
                    continue
                try:
                    entry = describe(prefix + name, handle, name)
                except OSError:
                    continue
                if entry["kind"] != "directory":
                    if not self._ignores(rules, entry["path"], False):
                        yield entry, handle, name
                elif not self._ignores(rules, entry["path"], True):
                    below = self._enter(handle, name, entry["path"])
                    if below is not None:
                        inner = IgnoreRules.of(below, self._prefix + entry["path"] + "/", rules)
                        stack.append((below, entry["path"] + "/", iter(sorted(os.listdir(below))), inner))
        finally:
            for handle, *_ in stack:
                os.close(handle)

    def _enter(self, handle: int, name: str, path: str) -> int | None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(name, flags, dir_fd=handle)
        except OSError:
            self._unreadable.append(path + "/")
            return None

    def _rules(self, start: int) -> IgnoreRules:
        """Return the ignore rules of the directory where the walk starts, including those of the directories above."""
        rules, parts = None, self._prefix.split("/")[:-1]
        for depth in range(len(parts)):
            with contextlib.suppress(Refusal):
                handle = self._root.open("/".join(parts[:depth]) or ".", os.O_RDONLY | os.O_DIRECTORY)
                rules = IgnoreRules.of(handle, "".join(f"{part}/" for part in parts[:depth]), rules)
                os.close(handle)
        return IgnoreRules.of(start, self._prefix, rules)

    def _ignores(self, rules: IgnoreRules, path: str, directory: bool) -> bool:
        if directory and path.rpartition("/")[2] in self._skipped:
            left_out = True
        elif any(glob.match(path) for glob in self._globs):
            return False  # a pattern that matches the path overrides the rules
        else:
            left_out = rules.ignore(self._prefix + path, directory)
        if left_out:
            self._ignored.append(path + ("/" if directory else ""))
        return left_out

    def notes(self) -> list[str]:
        notes = []
        for what, paths in (("ignored, not searched", self._ignored), ("cannot be read", self._unreadable)):
            if paths:
                more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
                notes.append(f"{what}: {', '.join(paths[:_NAMED])}{more}")
        return notes


def find(root: Root, path: str, pattern: str, limit: int, seconds: int) -> dict[str, Any]:
    """Find files below `path` by a glob pattern, newest first.

    A pattern with brackets that is exactly the path of a file also finds that file. After `seconds` the process is
    killed.
    """
    _end_after(seconds)
    path, pattern = _rebased(root, path, pattern)
    negated = pattern.startswith("!")
    pattern = pattern[1:] if negated else pattern
    wanted, plain = compile_glob(pattern), compile_glob(pattern, brackets=False)
    tree = Tree(root, path, [] if negated else [pattern])
    exact: list[dict[str, Any]] = []
    matching: list[dict[str, Any]] = []
    for entry, _, _ in tree.walk():
        if entry["kind"] == "other":
            continue
        if not negated and has_class(pattern) and plain.match(entry["path"]):
            exact.append(entry)
        elif wanted.match(entry["path"]) != negated:
            matching.append(entry)
    found = exact or matching
    newest = heapq.nlargest(limit, found, key=lambda entry: entry["mtime_ns"])
    for entry in newest:
        entry["path"] = _joined(path, entry["path"])
    notes = tree.notes()
    if not found and not negated and _is_directory(root, path, pattern):
        notes.append(f"{pattern} is a directory; {pattern.rstrip('/')}/** finds its files")
    return {"entries": newest, "total": len(found), "notes": notes}


def _rebased(root: Root, path: str, pattern: str) -> tuple[str, str]:
    """Return `path` and the pattern. An absolute pattern inside the workspace becomes relative to the workspace.

    Raises Refusal when the pattern leads out of the workspace.
    """
    sign = "!" if pattern.startswith("!") else ""
    body = pattern[len(sign) :]
    if ".." in body.split("/"):
        raise Refusal("outside", f"{pattern}: a pattern cannot go up; give the directory as `path`")
    if body.startswith(root.path + "/"):
        return ".", sign + body[len(root.path) :]
    if body.startswith("/"):
        top = body[1:].split("/")[0]
        if not any(character in top for character in "*?[{") and not _is_there(root, path, top):
            raise Refusal("outside", f"{pattern} is outside the workspace {root.path}; look there with bash")
    return path, pattern


def _is_there(root: Root, path: str, name: str) -> bool:
    with contextlib.suppress(Refusal):
        os.close(root.open(f"{path}/{name}", os.O_RDONLY))
        return True
    return False


def _is_directory(root: Root, path: str, pattern: str) -> bool:
    with contextlib.suppress(Refusal):
        handle = root.open(_joined(path, pattern.lstrip("/")), os.O_RDONLY | os.O_DIRECTORY)
        os.close(handle)
        return True
    return False


def _joined(path: str, found: str) -> str:
    """Return `found`, which is relative to the directory `path`, as a path relative to the workspace."""
    base = path.rstrip("/").removesuffix("/.")
    return found if base in (".", "") else f"{base}/{found}"


def grep(root: Root, ask: dict[str, Any]) -> dict[str, Any]:
    """Find lines that match the query `ask`, which has the fields of the port's GrepQuery and the time limit `seconds`.

    SIGALRM kills this process at the time limit. Returns `rows`, `more` and `notes`. A row is {path, line, text,
    context}, {path, count} or {path}, depending on the query's mode.
    """
    _end_after(ask["seconds"])
    path, query = ask["path"], Query(ask)
    rows: list[dict[str, Any]] = []
    if root.relative(path) and not _is_directory(root, path, "."):
        # A file that the query names is searched, whatever globs and ignore rules say.
        query.search(root.open(path, os.O_RDONLY), path, rows)
        return {"rows": rows, "more": query.more, "notes": query.notes()}
    path, wanted, unwanted, patterns = _file_globs(root, path, ask["globs"])
    tree = Tree(root, path, patterns)
    for entry, parent, name in tree.walk():
        one = entry["path"]
        if entry["kind"] != "file" or any(glob.match(one) for glob in unwanted):
            continue
        if wanted and not any(glob.match(one) for glob in wanted):
            continue
        try:
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=parent)
        except OSError as error:
            query.unreadable.append(str(problem(error, one)))
            continue
        query.search(handle, _joined(path, one), rows)
        if query.more:
            break
    return {"rows": rows, "more": query.more, "notes": [*tree.notes(), *query.notes()]}


def _file_globs(root: Root, path: str, globs: list[str]) -> tuple[str, list[Glob], list[Glob], list[str]]:
    """Compile the globs that narrow a search to some files. A glob with `!` at its start excludes files.

    Returns the directory to start in, the wanted globs, the unwanted globs, and the patterns of the wanted ones.
    """
    wanted, unwanted, patterns = [], [], []
    start = path
    for given in globs:
        start, pattern = _rebased(root, path, given)
        if pattern.startswith("!"):
            unwanted.append(compile_glob(pattern[1:]))
            continue
        wanted.append(compile_glob(pattern))
        if has_class(pattern):
            wanted.append(compile_glob(pattern, brackets=False))
        if pattern not in ("**/*", "*", "**"):
            patterns.append(pattern)
    return start, wanted, unwanted, patterns


def _end_after(seconds: int) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
