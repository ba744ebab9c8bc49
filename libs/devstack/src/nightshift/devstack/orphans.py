"""Adopts processes that the stack's children leave behind, and kills them when the stack stops (Linux only).

A sandbox keeps running when its sandbox gateway exits, so that the restarted gateway finds it again. But no sandbox may
run after the stack has stopped.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

from nightshift.devstack.child import Child

_PR_SET_CHILD_SUBREAPER = 36
_AGAIN_SECONDS = 0.2
#: The programs that run sandboxes. A process whose program's name begins so may belong to a sandbox.
_RUNNERS = ("bwrap", "unshare", "sh", "python")


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent dies, and collect their exit codes when they end.

    Needs a running event loop. Does nothing outside Linux.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, _reap)


def _reap() -> None:
    """Collect the exit codes of ended adopted processes. The exit code of a `Child` is left to the code that waits for
    it.
    """
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in Child.unreaped:
                # The kernel reports no other process before this one is collected, which happens soon. So try again
                # later.
                asyncio.get_running_loop().call_later(_AGAIN_SECONDS, _reap)
                return
            os.waitpid(ended.si_pid, 0)


def end_orphans() -> int:
    """Kill the descendants of this process, except each `Child` and the descendants of a `Child`.

    Returns the number of killed processes. Blocks for milliseconds.
    """
    if not sys.platform.startswith("linux"):
        return 0
    import psutil  # noqa: PLC0415 - only at the end: it would hold up the start

    us, killed = psutil.Process(), set[psutil.Process]()
    # A process may end during the search. This process then adopts its children, and the next round finds them.
    while found := {one for one in us.children() if one.pid not in Child.unreaped} - killed:
        for adopted in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                found = found.union(adopted.children(recursive=True))
        for one in found - killed:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        killed |= found
    return len(killed)


def end_sandboxes(folder: Path) -> int:
    """Kill the processes of sandboxes in this folder that an earlier `nightshift up` left behind when it was killed.

    Finds them by the names of the sandboxes in their command lines. Returns their number. Blocks for milliseconds.
    """
    names = {place.name for place in folder.iterdir()} if folder.is_dir() else set()
    if not names:
        return 0
    import psutil  # noqa: PLC0415 - only at the end: it would hold up the start

    killed = 0
    for process in psutil.process_iter(["cmdline"]):
        words = [Path(word).name for word in process.info["cmdline"] or ()]
        # Other programs, such as an editor with a file of the sandbox open, are left alone.
        if names.intersection(words) and words[0].startswith(_RUNNERS):
            with contextlib.suppress(psutil.Error):
                process.kill()
                killed += 1
    return killed
