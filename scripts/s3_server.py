#!/usr/bin/env python3
"""Runs a Versity S3 gateway on this machine, for tests against an S3 server that is not the embedded one.

s3_server.py run -- COMMAND…   start it on an empty folder, run the command with NIGHTSHIFT_S3_… set, stop it
s3_server.py fetch             only build it into .cache/s3

Needs Python, and Go, which builds it once from its published module. Unlike the embedded server it checks
signatures.
"""

import argparse
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from servers import CACHE, LOOPBACK, ROOT, SetupError, finish, free_ports, say, split_command

KEPT = CACHE / "s3"
VERSION = "v1.8.0"
MODULE = f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"
REGION, BUCKET = "eu-central-1", "nightshift"  # not the region that a client takes for granted


def fetch() -> Path:
    """Return the gateway's program, built once per version. Go checks the checksums. Raises SetupError."""
    program = KEPT / VERSION / "versitygw"
    if program.is_file():
        return program
    if shutil.which("go") is None:
        raise SetupError("the S3 gateway is built with Go, which is not on this machine", "install Go")
    KEPT.mkdir(parents=True, exist_ok=True)
    say(f"building versitygw {VERSION} (some minutes, once)")
    with tempfile.TemporaryDirectory(dir=KEPT) as unfinished:
        environment = os.environ | {"GOBIN": unfinished}
        if subprocess.run(["go", "install", MODULE], check=False, env=environment).returncode != 0:
            raise SetupError("the S3 gateway could not be built", "look at Go's messages above")
        program.parent.mkdir(exist_ok=True)
        Path(unfinished, program.name).rename(program)
    return program


def run_command(command: list[str]) -> int:
    """Run the command against a fresh gateway and return its exit code."""
    program = fetch()
    with tempfile.TemporaryDirectory(prefix="run-", dir=KEPT) as name:
        folder = Path(name)
        (folder / "data" / BUCKET).mkdir(parents=True)  # a folder is a bucket
        access, secret = "nightshift", secrets.token_hex(16)
        [port] = free_ports(1)
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


def wait_until_listening(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Return once the server accepts connections. Raises SetupError with the end of its log when it does not."""
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((LOOPBACK, port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise SetupError(
        f"the S3 gateway did not start:\n{tail}", "its folder needs extended attributes: look above"
    )


def main() -> int:
    own, command = split_command(sys.argv[1:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["run", "fetch"])
    action = parser.parse_args(own).action
    if (action == "run") != bool(command):
        parser.error("`run` takes a command after --, `fetch` takes none")
    if action == "run":
        return run_command(command)
    print(fetch().relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(finish(main))
