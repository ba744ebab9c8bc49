"""Points in the code at which a test kills the process: `NIGHTSHIFT_FAIL_POINT=before_append:3` kills it at the third
pass.
"""

import os
import signal


class FailPoints:
    """Kills the process when it reaches the point in the setting `NIGHTSHIFT_FAIL_POINT`. Does nothing without the
    setting.
    """

    def __init__(self, setting: str | None = None) -> None:
        self._name, _, count = (setting or "").partition(":")
        self._left = int(count or 1)

    def reach(self, name: str) -> None:
        if name != self._name:
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
