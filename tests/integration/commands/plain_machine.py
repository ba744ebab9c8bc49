"""The same steps without a sandbox: bash and Python in an ordinary directory, as an ordinary user."""

import hashlib
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from nightshift.sandboxes.local.settings import python_home, search_path

_USER = 60_599  # an ordinary user, when this process is root
_TIMEOUT_S = 30


class PlainMachine:
    """A home with a workspace. Its path ends as in a sandbox; `without_root` removes what comes before."""

    def __init__(self) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="plain-"))
        self.workspace = self._root / "home/user/workspace"
        self.workspace.mkdir(parents=True)
        (self._root / "tmp").mkdir()
        (self._root / "tmp").chmod(0o1777)
        identity = "[user]\n\tname = Nightshift\n\temail = agent@nightshift.invalid\n[init]\n\tdefaultBranch = main\n"
        (self._root / "gitconfig").write_text(identity)
        self._root.chmod(0o755)
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._as = {"user": _USER, "group": _USER, "extra_groups": []}
            for path in (self.workspace.parent, self.workspace):
                os.chown(path, _USER, _USER)

    def close(self) -> None:
        shutil.rmtree(self._root)

    def without_root(self, text: str) -> str:
        return text.replace(str(self._root), "")

    def bash(self, command: str) -> tuple[int, str, str]:
        """Returns the exit code, 128 + signal when a signal ended it, and both streams."""
        home = str(self.workspace.parent)
        environment = {
            **{"HOME": home, "USER": "user", "LOGNAME": "user", "LANG": "C.UTF-8", "TERM": "dumb"},
            "PATH": search_path().replace("/home/user", home),
            "TMPDIR": str(self._root / "tmp"),
            "GIT_CONFIG_SYSTEM": str(self._root / "gitconfig"),
        }
        with subprocess.Popen(
            ["bash", "-c", self._here(command)],
            cwd=self.workspace,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            umask=0o022,
            **self._as,
        ) as process:
            try:
                out, err = process.communicate(timeout=_TIMEOUT_S)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        code = process.returncode
        texts = (self.without_root(one.decode("utf-8", "replace")) for one in (out, err))
        return (128 - code if code < 0 else code), *texts

    def _here(self, command: str) -> str:
        return re.sub(r"/home/user|/tmp\b", lambda found: f"{self._root}{found[0]}", command)

    def _path(self, name: str) -> Path:
        return self.workspace / name.removeprefix("/home/user/workspace/")

    def file_tool(self, tool: str, given: dict[str, Any]) -> tuple[bool, str]:
        """Returns whether the call is refused, and what a reader of the file sees."""
        path = self._path(given["file_path"])
        if tool == "read_file":
            lines = path.read_text().removesuffix("\n").split("\n")
            first, last = given.get("view_range") or (given.get("offset", 1), None)
            first = max(first, 1)
            last = last or first + given.get("limit", 2000) - 1
            shown = lines[first - 1 : last]
            return False, "\n".join(f"{number:6}\t{line}" for number, line in enumerate(shown, first))
        if tool == "write_file":
            self._write(path, given["content"])
            return False, ""
        old, new = given["old_string"], given["new_string"]
        if not old:
            if path.exists() and path.stat().st_size:
                return True, ""
            self._write(path, new)
            return False, ""
        text = path.read_text() if path.exists() else ""
        count = text.count(old)
        if count == 0 or (count > 1 and not given.get("replace_all")):
            return True, ""
        self._write(path, text.replace(old, new))
        return False, ""

    def _write(self, path: Path, content: str) -> None:
        made = [one for one in path.parents if not one.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        if self._as:
            for one in (path, *made):
                os.chown(one, _USER, _USER)

    def tree(self) -> dict[str, tuple[str, int, str | None]]:
        """Every path with its kind, its permission bits and the digest or target of its content."""
        found = {}
        for path in self.workspace.rglob("*"):
            info = path.lstat()
            mode = stat.S_IMODE(info.st_mode)
            if stat.S_ISLNK(info.st_mode):
                row = "symlink", 0, self.without_root(str(path.readlink()))
            elif stat.S_ISDIR(info.st_mode):
                row = "directory", mode, None
            elif stat.S_ISREG(info.st_mode):
                content = path.read_bytes().replace(str(self._root).encode(), b"")
                row = "file", mode, hashlib.sha256(content).hexdigest()
            else:
                row = "other", mode, None
            found[str(path.relative_to(self.workspace))] = row
        return found


#: What differs between two runs on one machine, and what stands in its place.
_VARYING = (
    (r"\b[0-9a-f]{7,40}\b(?=[ .…:)\]]|$)|\b[0-9a-f]{40}\b", "<hash>"),
    (r"\b[0-9a-f]{7}\.\.[0-9a-f]{7}\b", "<hash>..<hash>"),
    (r"(?m)^([bcdlps-][rwxsStT-]{9}[.+]? +\d+) +\S+ +\S+", r"\1 <owner>"),
    (r"[A-Z][a-z]{2} [ 0-9]?\d +(?:\d\d:\d\d|\d{4})\b", "<date>"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?", "<date>"),
    (r"(?m)^(\[\d+\][+-]?) +\d+$", r"\1 <pid>"),
    (r"(line \d+:) +\d+ ", r"\1 <pid> "),
    (r"\(\d+\) -", "(<pid>) -"),
    (r"\b\d+(\.\d+)?m?s\b", "<duration>"),
    (r"\x1b\[[0-9;]*[mK]", ""),
    (r"/tmp/tmp[\w.-]+", "<temporary>"),
    (r"(?m)^[^\n\r]*\r(?=[^\n])", ""),  # a terminal shows what was written over it
    (r"Read-only file system", "Permission denied"),  # of a system folder
)


def normalised(text: str) -> str:
    """Replaces what differs between two runs on one machine. Everything else is compared as it is."""
    text = text.replace(f"{python_home()}/bin/", "/usr/bin/")  # an ordinary user may not reach this one
    for pattern, word in _VARYING:
        text = re.sub(pattern, word, text)
    return text
