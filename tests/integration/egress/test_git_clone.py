"""git and fetch of Node.js reach an allowed host, and git a private one with a secret that it never sees."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def test_git_clones_an_allowed_and_a_private_repository(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("a network namespace needs root, unshare and ip")
    command = ["unshare", "-n", "-m", sys.executable, "-m", "tests.support.egress_clone", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["clone"] == [False, "hello\n[exit code 0]", ["files.lab.example"]]
    if shutil.which("node"):
        lines = said["fetch"].splitlines()
        assert lines[0].endswith(" 200 hello"), said["fetch"]
        assert lines[1] == "200"
        assert "403" in lines[2]
        assert lines[3] == "own"
    is_error, text = said["prepared"]
    assert not is_error, text
    assert "Your workspace holds https://secret.lab.example/private/x.git at main, commit " in text
    assert "The set-up command `bash .nightshift/setup.sh` ended with exit code 0." in text
    assert said["looked"].startswith("hello\nnightshift/b")
    assert "\nfrom the source\n" in said["looked"]
    [pushed], [kept] = said["pushed"], said["kept"]
    assert (pushed["commits"], pushed["pushed"], pushed["bundle"], pushed["detail"]) == (3, True, None, None)
    lines = [line for line in said["pushed log"].splitlines() if line]
    assert sum(line.startswith("Nightshift build b") for line in lines) == 3, lines
    assert sum("Nightshift-Position: " in line for line in lines) == 3, lines
    assert (kept["commits"], kept["pushed"]) == (3, False)
    assert said["kept objects"] == [kept["bundle"]]
    assert "names no secret" in kept["detail"]
    assert said["pushed objects"] == []
    assert said["kept log"] == ""
    assert "canary" not in done.stdout.replace(":0", "")
