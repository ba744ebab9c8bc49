"""Adopts the processes that the stack's children leave behind, and ends them with the stack (Linux only).

A sandbox outlives the gateway that opened it, so that a restarted gateway finds it again. It must not outlive the
stack.
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
#: The programs that run a sandbox, by the beginning of their names.
_RUNNERS = ("bwrap", "unshare", "sh", "python")


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose parent died, and reap them. Needs a running event loop."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, _reap)


def _reap() -> None:
    """Collect the exit codes of adopted processes. Whoever waits for a `Child` collects the code of that one."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in Child.unreaped:
                # The kernel reports no other process until this one is waited for, which happens in a moment.
                asyncio.get_running_loop().call_later(_AGAIN_SECONDS, _reap)
                return
            os.waitpid(ended.si_pid, 0)


def end_orphans() -> int:
    """Kill every descendant that is neither a `Child` nor started by one. Returns how many. Blocks for milliseconds."""
    if not sys.platform.startswith("linux"):
        return 0
    import psutil  # noqa: PLC0415 - only at the end: it would hold up the start

    us, killed = psutil.Process(), set[psutil.Process]()
    # A process may end while it is looked at. Its children are adopted then, and found in the next round.
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
    """Kill the processes of this folder's sandboxes, which an `up` that was killed left behind.

    Finds them by the sandbox's name in their command lines. Returns how many. Blocks for milliseconds.
    """
    names = {place.name for place in folder.iterdir()} if folder.is_dir() else set()
    if not names:
        return 0
    import psutil  # noqa: PLC0415 - only at the end: it would hold up the start

    killed = 0
    for process in psutil.process_iter(["cmdline"]):
        words = [Path(word).name for word in process.info["cmdline"] or ()]
        # An editor that has a file of the sandbox open is left alone.
        if names.intersection(words) and words[0].startswith(_RUNNERS):
            with contextlib.suppress(psutil.Error):
                process.kill()
                killed += 1
    return killed
