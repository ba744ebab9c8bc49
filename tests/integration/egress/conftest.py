"""The lab of the egress proxy: one for all its tests, in a network namespace without a route out."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def ask() -> Iterator[Ask]:
    """Asks the lab one question (see `tests.support.egress_lab`). Skips where no network namespace can be made."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("a network namespace needs root, unshare and ip")
    if subprocess.run(["unshare", "-n", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine allows no network namespace")
    command = ["unshare", "-n", sys.executable, "-m", "tests.support.egress_lab"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as lab:  # type: ignore[call-overload]

        def ask(send: str | list[str], **question: Any) -> dict[str, Any]:
            lab.stdin.write(json.dumps({"send": send, **question}) + "\n")
            lab.stdin.flush()
            return dict(json.loads(lab.stdout.readline()))

        assert json.loads(lab.stdout.readline()) == {"ready": True}
        yield ask
        lab.stdin.close()
        lab.wait(10)
