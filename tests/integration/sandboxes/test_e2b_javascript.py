"""The stand-in for E2B answers the official JavaScript client as E2B does: `make test-e2b-js`."""

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest
from tests.support.e2b_server import E2BServer

_CLIENT = os.environ.get("NIGHTSHIFT_E2B_JS")

pytestmark = pytest.mark.skipif(
    not _CLIENT or not shutil.which("node"),
    reason="needs Node and the e2b package: make test-e2b-js",
)


async def test_the_javascript_client_sees_what_e2b_shows(e2b_server: E2BServer) -> None:
    script = Path(__file__).with_name("e2b_client.mjs")
    process = await asyncio.create_subprocess_exec(
        "node", str(script), e2b_server.url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    seen = json.loads(out)
    assert seen["uploads"] == "1 00 ff\nyes\n"
    assert seen["bytes"] == [0, 255]
    assert seen["signal"] == [True, -1, "signal: killed", "out\n", "err\n"]
    assert "cwd '/nowhere' does not exist" in seen["cwd"]
    assert seen["streamed"] == [["first\n", "last\n"], True]
    assert "is a directory" in seen["directory"]
    assert "does not exist" in seen["absent"]
    assert seen["listed"] == [["folder", "dir"], ["one", "file"]]
    assert seen["moved"] is True
    assert (seen["processes"], seen["killed"]) == (True, [True, True])
    assert seen["paused"] == [True, False]
    assert seen["found"] == [True]
    assert seen["resumed"] == "1"
    assert "Invalid sandbox ID" in seen["invalid"]
    assert "'no-template' not found" in seen["refused"]
    assert seen["ended"] == [True, False]
