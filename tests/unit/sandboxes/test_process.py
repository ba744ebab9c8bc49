"""A sandbox is identified by what the kernel says of its first process."""

import os
import subprocess

from nightshift.sandboxes.local.process import FirstProcess


def test_a_later_process_with_the_same_pid_is_not_the_sandbox() -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            namespace = os.stat(f"/proc/{other.pid}/ns/pid").st_ino
            stranger = FirstProcess(other.pid, namespace + 1)
            assert not stranger.runs()
            stranger.kill()
            assert FirstProcess(other.pid, namespace).runs(), "it was left alone"
            FirstProcess(other.pid, namespace).kill()
            assert other.wait() == -9
        finally:
            other.kill()
    assert not FirstProcess(other.pid, namespace).runs()
