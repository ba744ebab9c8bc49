"""The local driver's suites once more as an ordinary user: one user id for all, no disk image, a pause by signals."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[3]
_USER = "61499"
_PROBE = "import os, sys, nightshift.sandboxes.local.driver; print('found'); sys.exit(not os.access(sys.executable, 1))"
_SUITES = ("test_drivers.py", "test_escapes.py", "test_hostile_calls.py", "test_stages.py")

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="every other test is this one without root"),
]


@pytest.fixture
def home() -> Iterator[Path]:
    """A home of the ordinary user. Not below `tmp_path`: each start of pytest closes its folders to other users."""
    with tempfile.TemporaryDirectory(prefix="nightshift-user-") as folder:
        os.chown(folder, int(_USER), int(_USER))
        yield Path(folder)


async def test_the_suites_of_the_local_driver_pass_without_root(home: Path) -> None:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv is not installed")
    as_user = [setpriv, "--reuid", _USER, "--regid", _USER, "--clear-groups", sys.executable, "-B"]
    code, said = await _run([*as_user, "-c", _PROBE], home)
    if "found" not in said:
        pytest.skip(f"an ordinary user cannot read this installation: {said[-300:]}")
    # A preview is a process of this very interpreter, which may be in the home of root.
    chosen = "not e2b" if code == 0 else "not e2b and not preview"
    suites = [str(Path(__file__).parent / name) for name in _SUITES]
    options = ["-q", "-k", chosen, "-p", "no:cacheprovider", "--basetemp", str(home / "tests")]
    code, said = await _run([*as_user, "-m", "pytest", *options, *suites], home)
    assert code == 0, said[-6000:]
    assert int(said.rpartition(" passed")[0].split()[-1]) > 55


async def _run(command: list[str], home: Path) -> tuple[int | None, str]:
    """Run the command at the top of the repository. Returns its exit code and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=_ROOT,
        env={**os.environ, "HOME": str(home)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode("utf-8", "replace")
