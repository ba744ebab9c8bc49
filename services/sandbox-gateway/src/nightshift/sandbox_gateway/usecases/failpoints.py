"""Places at which a test kills the process: `NIGHTSHIFT_FAIL_POINT=before_append:3` kills it at the third pass."""

import os
import signal


class FailPoints:
    """Kills the process at the place that the setting names. Does nothing without a setting."""

    def __init__(self, setting: str | None = None) -> None:
        self._name, _, count = (setting or "").partition(":")
        self._left = int(count or 1)

    def reach(self, name: str) -> None:
        if name != self._name:
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
