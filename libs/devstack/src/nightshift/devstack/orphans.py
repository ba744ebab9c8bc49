"""Processes that our children left behind: adopted, reaped while we run, and ended with us (Linux only).

A sandbox outlives the gateway that opened it, so that a restarted gateway finds it again; it must not outlive the
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
#: What runs a sandbox, by the beginning of its name.
_RUNNERS = ("bwrap", "unshare", "sh", "python")


def adopt_orphans() -> None:
    """From now on a process whose parent died becomes our child, and is reaped when it ends. Needs a running loop."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, _reap)


def _reap() -> None:
    """Take the exit codes of adopted ones. Those of our own children are left to who waits for them."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in Child.unreaped:
                # It hides those behind it until it is waited for, which happens in a moment.
                asyncio.get_running_loop().call_later(_AGAIN_SECONDS, _reap)
                return
            os.waitpid(ended.si_pid, 0)


def end_orphans() -> int:
    """Kill every descendant that is not a `Child` of ours or below one; returns how many. Blocking, milliseconds."""
    if not sys.platform.startswith("linux"):
        return 0
    import psutil  # noqa: PLC0415 - only at the end: it would hold up the start

    us, killed = psutil.Process(), set[psutil.Process]()
    # One may end at any moment and be reaped while we look at it; what it left is ours then, and seen the next time.
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
    """Kill what belongs to a sandbox of this folder and is not ours: an `up` that was killed has left it to nobody.

    Each of its processes has the sandbox's name in its command line. Returns how many. Blocking, milliseconds.
    """
    names = {place.name for place in folder.iterdir()} if folder.is_dir() else set()
    if not names:
        return 0
    import psutil  # noqa: PLC0415 - only at the end: it would hold up the start

    killed = 0
    for process in psutil.process_iter(["cmdline"]):
        words = [Path(word).name for word in process.info["cmdline"] or ()]
        # Somebody may have a file of it open in an editor.
        if names.intersection(words) and words[0].startswith(_RUNNERS):
            with contextlib.suppress(psutil.Error):
                process.kill()
                killed += 1
    return killed
