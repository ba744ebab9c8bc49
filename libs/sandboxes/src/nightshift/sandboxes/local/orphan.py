"""Starting processes that are nobody's children: they outlive us, and whoever is process 1 reaps them."""

import subprocess
from collections.abc import Sequence


def start(command: Sequence[str], *, fds: Sequence[int] = (), stderr: int = subprocess.DEVNULL) -> None:
    """Start it in a session of its own, with these file descriptors. Returns at once; how it goes shows elsewhere."""
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
