#!/usr/bin/env python3
"""Builds what a release consists of, into dist/.

dist.py                         a wheel of each member and of the meta package, and requirements.txt with what they need
dist.py --sbom                  also sbom.cdx.json: members and dependencies with their hashes (CycloneDX)
dist.py --third-party 3.11      also download what they need, as wheels for that Python, to build/third-party

requirements.txt holds versions and hashes of requirements.lock, without what only development needs.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
UV = ROOT / ".venv" / "bin" / "uv"
REQUIREMENTS = DIST / "requirements.txt"
THIRD_PARTY = ROOT / "build" / "third-party"
#: Makes the software bill of materials. It runs in an environment of its own.
SBOM_TOOL = "cyclonedx-bom==7.5.0"
#: A test tool, which a release does not contain.
UNSHIPPED = ("simulation",)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sbom", action="store_true")
    parser.add_argument("--third-party", metavar="PYTHON")
    asked = parser.parse_args()
    build_wheels()
    write_requirements()
    if asked.third_party:
        download(asked.third_party)
    if asked.sbom:
        write_sbom()
    return 0


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, cwd=ROOT, stdout=sys.stderr)


def build_wheels() -> None:
    """Build every wheel anew. The meta package is the workspace's root, which holds no module."""
    run(UV, "build", "--quiet", "--wheel", "--all-packages", "--clear", "--out-dir", DIST)
    run(UV, "build", "--quiet", "--wheel", "--out-dir", DIST, ROOT)
    for name in UNSHIPPED:
        for wheel in DIST.glob(f"nightshift_{name}-*.whl"):
            wheel.unlink()


def write_requirements() -> None:
    """Pin what the members need: the versions of requirements.lock with their hashes, for every platform."""
    members = [ROOT / "pyproject.toml", *shipped_members()]
    own = [word for member in members for word in ("--no-emit-package", member_name(member))]
    options = [
        "--universal",
        "--generate-hashes",
        "--no-emit-index-url",
        "--no-annotate",
        "--no-header",
        "--quiet",
    ]
    run(
        UV,
        "pip",
        "compile",
        *members,
        *options,
        *own,
        "--constraint",
        "requirements.lock",
        "-o",
        REQUIREMENTS,
    )
    text = REQUIREMENTS.read_text(encoding="utf-8")
    # uv names the packages it left out with the path it found them at: drop that remark.
    REQUIREMENTS.write_text(
        text.partition("\n# The following packages were excluded")[0].rstrip() + "\n", "utf-8"
    )


def shipped_members() -> Sequence[Path]:
    found = sorted([*ROOT.glob("libs/*/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")])
    return [*(path for path in found if path.parent.name not in UNSHIPPED), ROOT / "cli" / "pyproject.toml"]


def member_name(pyproject: Path) -> str:
    found = re.search(r'^name = "(.+)"', pyproject.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise SystemExit(f"error: {pyproject} has no name")
    return found.group(1)


def download(python: str) -> None:
    """Download a wheel of each requirement for this Python and this machine's platform. pip checks the hashes."""
    # What was downloaded for the same requirements is still right.
    stamp = THIRD_PARTY.with_suffix(".stamp")
    key = hashlib.sha256(REQUIREMENTS.read_bytes() + python.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == key:
        return
    shutil.rmtree(THIRD_PARTY, ignore_errors=True)
    pip = [
        ROOT / ".venv" / "bin" / "python",
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
    ]
    wheels = ["--no-deps", "--only-binary=:all:", "--python-version", python, "--dest", THIRD_PARTY]
    run(*pip, *wheels, "--require-hashes", "--requirement", REQUIREMENTS)
    stamp.write_text(key, encoding="utf-8")


def write_sbom() -> None:
    """Write the bill of materials of the Python part. An image's Debian packages stand in its dpkg database."""
    listed = DIST / "sbom-input.txt"
    wheels = [wheel.name.split("-") for wheel in sorted(DIST.glob("*.whl"))]
    own = [f"{name.replace('_', '-')}=={version}" for name, version, *_ in wheels]
    listed.write_text("\n".join([*own, REQUIREMENTS.read_text(encoding="utf-8")]), encoding="utf-8")
    tool = [UV, "tool", "run", "--quiet", "--from", SBOM_TOOL, "cyclonedx-py", "requirements"]
    options = ["--pyproject", "pyproject.toml", "--mc-type", "application", "--output-reproducible"]
    run(*tool, listed, *options, "--of", "JSON", "--output-file", DIST / "sbom.cdx.json")
    listed.unlink()


if __name__ == "__main__":
    sys.exit(main())
