"""Decides whether a tool call can have written files of the workspace: a command that only reads proves no work."""

import re
from typing import Any

from nightshift.contracts.model import BlobRef
from nightshift.contracts.tools import Bash, Document, EditFile, WriteFile
from nightshift.orchestrator.domain.shell_commands import program, read_shell

#: The tools that write files whenever they succeed.
_WRITING = frozenset({WriteFile.tool, EditFile.tool, Document.tool})
#: Programs that write no file, whatever their arguments.
_READING = re.compile(
    r":|\[|basename|cat|cd|cmp|date|df|diff|dirname|du|echo|egrep|false|fgrep|file|grep|groups|head|hostname|id|less|ls"
    r"|md5sum|nproc|printenv|printf|ps|pwd|readlink|realpath|rg|sha256sum|sleep|stat|tail|test|true|tty|type|uname|uptime"
    r"|wc|which|whoami"
)
#: The most characters of a command that are read. A longer one counts as writing.
_LONGEST = 400


def may_write(tool: str, given: dict[str, Any] | BlobRef) -> bool:
    """Return whether a tool call with the input `given` can write files.

    A command that is too long or unclear to be analyzed counts as writing.
    """
    if tool != Bash.tool:
        return tool in _WRITING
    if isinstance(given, BlobRef):
        return True  # a long command
    command = given.get("command")
    return isinstance(command, str) and (len(command) > _LONGEST or not _only_reads(command))


def _only_reads(command: str) -> bool:
    text = read_shell(command)
    unclear = text.changes or text.wrapped or text.code or text.doubt
    return not unclear and all(_READING.fullmatch(program(words) or "?") for words in text.commands)
