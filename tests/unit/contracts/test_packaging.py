"""What somebody gets who installs only the contracts."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
UV = Path(sys.executable).with_name("uv")
#: All that the contracts need, with what pydantic itself needs.
NEEDED = ("pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection")

IMPORT_ALL = """
import pkgutil, sys, importlib
import nightshift.contracts
for module in pkgutil.walk_packages(nightshift.contracts.__path__, "nightshift.contracts."):
    importlib.import_module(module.name)
print("\\n".join(sorted(name for name in sys.modules if "." not in name)))
"""

SEND = """
import sys
from nightshift.contracts.cloudevents import encode_request
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.topics import Topics
import nightshift.contracts.registry as registry
request = BuildRequested(build_id="night-7", project_id="p", account_id="a", idea_brief="A habit tracker")
message = encode_request(request, id="night-7", source="/acme")
print(registry.__file__)
print(Topics().requests, message.key.decode(), dict(message.headers)["ce_type"].decode(), len(message.value))
from pathlib import Path
print((Path(registry.__file__).parent / "schemas/asyncapi.json").is_file())
"""


def test_importing_the_contracts_loads_only_pydantic():
    done = subprocess.run(
        [sys.executable, "-I", "-c", IMPORT_ALL], capture_output=True, text=True, check=True, timeout=50
    )
    bare = subprocess.run(  # some systems give every interpreter a module of theirs
        [sys.executable, "-I", "-c", "import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    loaded = set(done.stdout.split()) - set(bare.stdout.split())
    assert "pydantic" in loaded
    ours = {"nightshift", "__main__", "__mp_main__", *NEEDED}
    foreign = {name for name in loaded - sys.stdlib_module_names - ours if not name.startswith("_")}
    assert foreign == set()


@pytest.fixture
def installed(tmp_path):
    """A folder with the built wheel and its dependencies, and nothing else."""
    subprocess.run(
        [
            UV,
            "build",
            "--wheel",
            "--offline",
            "--no-build-isolation",
            "--python",
            sys.executable,
            "-o",
            tmp_path,
        ],
        cwd=ROOT / "libs/contracts",
        check=True,
        capture_output=True,
        timeout=50,
        env={**os.environ, "VIRTUAL_ENV": str(Path(sys.prefix))},
    )
    (wheel,) = tmp_path.glob("*.whl")
    target = tmp_path / "site"
    subprocess.run(
        [UV, "pip", "install", "--offline", "--no-deps", "--target", target, wheel],
        check=True,
        capture_output=True,
        timeout=50,
    )
    for name in NEEDED:
        origin = Path(find_spec(name).origin)
        source = origin.parent if origin.name == "__init__.py" else origin
        (target / source.name).symlink_to(source)
    return target


def test_the_wheel_alone_is_enough_to_build_and_encode_a_request(installed):
    code = f"import sys; sys.path.insert(0, {str(installed)!r})\n{SEND}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr
    where, sent, schemas = done.stdout.splitlines()
    assert Path(where).is_relative_to(installed)
    assert sent.startswith("nightshift.requests.v1 night-7 nightshift.requests.build_requested.v1 ")
    assert schemas == "True"
