"""Gives every command its environment variables and default git settings, and passes it a script that is too long for
an argument.
"""

from __future__ import annotations

import os

#: One argument may have 128 KiB in the kernel.
_LONGEST_ARGUMENT = 100_000
#: The environment variable with the call's id. Everything that a command starts inherits it.
MARK = "NIGHTSHIFT_CALL_ID"
#: Programs must not wait for a person, and git must be able to commit. A command's own settings override these.
ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
    "GIT_TERMINAL_PROMPT": "0",
    "DEBIAN_FRONTEND": "noninteractive",
    "PIP_NO_INPUT": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "npm_config_yes": "true",
    "npm_config_fund": "false",
    "npm_config_update_notifier": "false",
}
GIT_CONFIG = """[user]
	name = Nightshift
	email = agent@nightshift.invalid
[init]
	defaultBranch = main
[safe]
	directory = *
"""


def within_limit(argv: list[str]) -> list[str]:
    """Return the arguments in a form that the kernel accepts.

    A `bash -c` script that is too long for one argument is passed through an open file instead.
    """
    if argv[:2] != ["bash", "-c"] or len(argv[2].encode("utf-8", "surrogatepass")) <= _LONGEST_ARGUMENT:
        return argv
    handle = unnamed_file()
    os.set_inheritable(handle, True)
    with os.fdopen(os.dup(handle), "wb") as file:
        file.write(argv[2].encode("utf-8", "surrogatepass"))
    os.lseek(handle, 0, os.SEEK_SET)
    return ["bash", "-c", f'eval "$(cat <&{handle})" {handle}<&-', *argv[3:]]


def unnamed_file() -> int:
    """Open a new file without a name. Only this process and those that inherit the descriptor can read and write it."""
    try:
        return os.memfd_create("nightshift", os.MFD_CLOEXEC)
    except OSError:  # refused where no cgroup counts the memory of such files
        handle = os.open("/tmp", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)  # noqa: S108 - inside
        os.fchmod(handle, 0o666)
        return handle
