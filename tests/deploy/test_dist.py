"""The wheels of `make dist`: installed into an empty environment, the command works without a clone."""

import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
UV = ROOT / ".venv" / "bin" / "uv"

pytestmark = [
    pytest.mark.skipif(not os.environ.get("NIGHTSHIFT_DIST_TESTS"), reason="make test-dist runs it"),
    pytest.mark.timeout(600),
]


def pythons() -> list[str]:
    """Returns the interpreters that run here. A version manager's command may stand for a version that is absent."""
    names = [name for name in ("python3.11", "python3.12", "python3.13", "python3.14") if shutil.which(name)]
    asked = {name: subprocess.run([name, "-c", ""], check=False, capture_output=True) for name in names}
    return [name for name, done in asked.items() if done.returncode == 0]


@pytest.fixture(scope="module")
def wheels() -> list[Path]:
    subprocess.run([ROOT / ".venv/bin/python", ROOT / "scripts" / "dist.py", "--sbom"], check=True)
    return sorted(DIST.glob("*.whl"))


def test_there_is_a_wheel_of_each_member_and_of_the_whole(wheels):
    members = {
        path.parent.name
        for path in [*ROOT.glob("libs/*/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")]
    }
    wanted = {f"nightshift_{name.replace('-', '_')}" for name in members - {"simulation"}} | {
        "nightshift_cli",
        "nightshift",
    }
    assert {wheel.name.split("-")[0] for wheel in wheels} == wanted


def test_no_wheel_holds_anything_but_its_package(wheels):
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            tops = {name.split("/")[0] for name in archive.namelist()}
        assert tops <= {"nightshift", wheel.name.rsplit("-", 3)[0] + ".dist-info"}


def test_the_bill_of_materials_names_members_and_dependencies(wheels):
    bill = json.loads((DIST / "sbom.cdx.json").read_text())
    named = {one["name"] for one in bill["components"]}
    assert named >= {"nightshift-orchestrator", "asyncpg", "pydantic", "boto3"}
    assert not named & {"pytest", "mypy", "playwright"}


@pytest.mark.parametrize("python", pythons())
def test_the_demo_works_without_a_clone(wheels, python, tmp_path):
    environment = tmp_path / "venv"
    subprocess.run([UV, "venv", "--quiet", "--python", python, environment], check=True)
    install = [UV, "pip", "install", "--quiet", "--python", environment / "bin" / "python"]
    subprocess.run([*install, "--require-hashes", "--requirement", DIST / "requirements.txt"], check=True)
    subprocess.run([*install, "--no-index", "--find-links", DIST, "nightshift"], check=True)
    bare = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    done = subprocess.run(
        [environment / "bin" / "nightshift", "demo", "--json"],
        check=False,
        cwd=tmp_path,
        env=bare,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["status"], summary["sleeps"]) == ("ready", 1)
