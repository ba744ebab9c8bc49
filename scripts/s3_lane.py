#!/usr/bin/env python3
"""Runs a Versity S3 gateway on this machine, for tests against an S3 server that is not the embedded one.

s3_lane.py run -- COMMAND…   start it on an empty folder, run the command with NIGHTSHIFT_S3_… set, stop it
s3_lane.py fetch             only build it into .cache/s3

Needs only Python, and Go, which builds it once from its published module. Unlike the embedded one, it checks
signatures.
"""

import argparse
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "s3"
VERSION = "v1.8.0"
MODULE = f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"
LOOPBACK, REGION, BUCKET = "127.0.0.1", "us-east-1", "nightshift"
MISSING = 4  # the exit code for what is not set up, as everywhere in Nightshift


class LaneError(Exception):
    """What went wrong, and what a person can do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def fetch() -> Path:
    """The gateway's program, built once per version; Go compares the checksums."""
    program = CACHE / VERSION / "versitygw"
    if program.is_file():
        return program
    if shutil.which("go") is None:
        raise LaneError("the S3 gateway is built with Go, which is not on this machine", "install Go")
    CACHE.mkdir(parents=True, exist_ok=True)
    say(f"building versitygw {VERSION} (some minutes, once)")
    with tempfile.TemporaryDirectory(dir=CACHE) as unfinished:
        environment = os.environ | {"GOBIN": unfinished}
        if subprocess.run(["go", "install", MODULE], check=False, env=environment).returncode != 0:
            raise LaneError("the S3 gateway could not be built", "look at Go's messages above")
        program.parent.mkdir(exist_ok=True)
        Path(unfinished, program.name).rename(program)
    return program


def run_command(command: list[str]) -> int:
    """Run the command against a fresh gateway and return its exit code."""
    program = fetch()
    with tempfile.TemporaryDirectory(prefix="run-", dir=CACHE) as name:
        folder = Path(name)
        (folder / "data" / BUCKET).mkdir(parents=True)  # a folder is a bucket
        access, secret, port = "nightshift", secrets.token_hex(16), free_port()
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [program, "--port", f"{LOOPBACK}:{port}", "--region", REGION, "posix", folder / "data"],
                env=os.environ | {"ROOT_ACCESS_KEY": access, "ROOT_SECRET_KEY": secret},
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us: it is stopped after the command
            )
        try:
            wait_until_listening(process, port, folder / "log")
            say(f"versitygw serves at {LOOPBACK}:{port} (pid {process.pid})")
            environment = os.environ | {
                "NIGHTSHIFT_S3_ENDPOINT": f"http://{LOOPBACK}:{port}",
                "NIGHTSHIFT_S3_BUCKET": BUCKET,
                "NIGHTSHIFT_S3_ACCESS_KEY": access,
                "NIGHTSHIFT_S3_SECRET_KEY": secret,
                "NIGHTSHIFT_S3_REGION": REGION,
            }
            return subprocess.run(command, check=False, env=environment).returncode
        finally:
            process.terminate()
            process.wait()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on right now."""
    with socket.create_server((LOOPBACK, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def wait_until_listening(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Return once it takes connections; raise LaneError with its last words when it does not."""
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((LOOPBACK, port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise LaneError(
        f"the S3 gateway did not start:\n{tail}", "its folder needs extended attributes: look above"
    )


def say(text: str) -> None:
    print(f"s3: {text}", file=sys.stderr, flush=True)


def leave(number: int, _frame: FrameType | None) -> None:
    """A signal ends the lane the way an exception does, so that the gateway is stopped."""
    sys.exit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["run", "fetch"])
    parser.add_argument("command", nargs=argparse.REMAINDER, help="for run: -- and the command")
    arguments = parser.parse_args()
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if (arguments.action == "run") != bool(command):
        parser.error("`run` takes a command after --, `fetch` takes none")
    signal.signal(signal.SIGTERM, leave)
    try:
        if arguments.action == "run":
            return run_command(command)
        print(fetch().relative_to(ROOT))
    except LaneError as error:
        print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)
        return MISSING
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
