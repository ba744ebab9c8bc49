"""Starts processes that outlive this one. Process 1 becomes their parent and reaps them."""

import subprocess
from collections.abc import Sequence


def start(command: Sequence[str], *, fds: Sequence[int] = (), stderr: int = subprocess.DEVNULL) -> None:
    """Start the command in a session of its own with these descriptors. Returns at once, whether it succeeds or not."""
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
