"""Starts processes that outlive this one. Process 1 of the machine becomes their parent and collects them at their
end.
"""

import subprocess
from collections.abc import Sequence


def start(command: Sequence[str], *, fds: Sequence[int] = (), stderr: int = subprocess.DEVNULL) -> None:
    """Start the command in a session of its own, with the open descriptors `fds` and the standard error `stderr`.

    Returns at once. Does not report whether the command could be started.
    """
    subprocess.run(
        ["sh", "-c", '"$@" &', "sh", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        pass_fds=fds,
        start_new_session=True,
        cwd="/",
        check=True,
    )
