"""The file operations of the agent program. Each one blocks until it is done."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from . import files, imports, search, tree
from .answering import framed
from .confined_paths import Root
from .digest_cache import DigestCache
from .stages import Stages
from .usage import usage
from .wire import Reader, make_workspace, read_chunks


class FileOperations:
    """Maps names of operations to functions.

    The fields of a request other than `op` are the parameters of the function. The function returns the header of the
    answer, an iterator over data frames, or both as a tuple. When it returns None, the header is empty.
    """

    def __init__(self, home: str, digests: str) -> None:
        """`home` is the sandbox's home directory, and `digests` is the file of the digest cache.

        Stages are kept below the home, because clones and hard links need the file system of the workspace.
        """
        self._home = home
        self._stage_folder = os.path.join(home, ".nightshift", "stage")
        self._root = root = Root(os.path.join(home, "workspace"), home)
        self._digests = digests
        self.body: Reader = io.BytesIO()
        self.table: dict[str, Callable[..., Any]] = {
            "read": lambda **ask: framed(files.read(root, **ask)),
            "write": lambda path, mode: files.write(root, path, read_chunks(self.body), mode),
            "stat": lambda path: {"entry": files.stat_path(root, path)},
            "remove": partial(tree.remove, root),
            "usage": lambda: usage(home),
            "list": self._list,
            "glob": partial(search.find, root),
            "grep": lambda **ask: search.grep(root, ask),
            "import": lambda: imports.import_(root, self.body, DigestCache(digests)),
            "stage": lambda **ask: self._stages().stage(**ask),
            "hold": lambda **ask: self._stages().hold(**ask),
            "held": lambda: self._stages().held(),
            "stored": lambda **ask: self._stages().stored(**ask),
            "export": lambda **ask: self._stages().export(**ask),
        }

    def make_workspace(self) -> None:
        """Create the workspace again when a command has removed it."""
        make_workspace(self._home)

    def _stages(self) -> Stages:
        return Stages(self._root, self._stage_folder, DigestCache(self._digests))

    def _list(self, fresh: bool, exclude: list[str], limit: int) -> Iterator[bytes]:
        listed = tree.list_tree(self._root, DigestCache(self._digests, fresh), exclude, limit)
        return framed(tree.rows(listed))
