"""Checks of the whole tree: locked dependencies, alike members, valid scripts, no path of one machine."""

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MEMBERS = sorted(
    [
        *ROOT.glob("libs/*/pyproject.toml"),
        *ROOT.glob("services/*/pyproject.toml"),
        ROOT / "cli/pyproject.toml",
    ]
)
LOCK = (ROOT / "requirements.lock").read_text()

#: Hosts of package registries, in parts so that this file does not contain them.
REGISTRIES = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("repo1", "maven", "org"),
        ("repo", "maven", "apache", "org"),
        ("proxy", "golang", "org"),
        ("crates", "io"),
    )
]
#: Patterns of paths of a developer's machine, in parts for the same reason. Homes inside sandboxes are allowed.
PRIVATE_PATHS = [
    r"(?<![\w./-])/" + path for path in ("work" + "/", r"home/(?!user/|workspace/)[a-z]\w*/", r"Users/\w+/")
]


def tracked_texts() -> list[tuple[str, str]]:
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.split("\0")
    texts = []
    for name in filter(None, names):
        path = ROOT / name
        if path.is_file() and b"\0" not in (body := path.read_bytes())[:8192]:
            texts.append((name, body.decode("utf-8", "replace")))
    return texts


def hits(pattern: str, text: str) -> list[str]:
    return [match.group(0) for match in re.finditer(pattern, text)]


@pytest.mark.parametrize("pattern", PRIVATE_PATHS)
def test_no_tracked_file_holds_a_path_of_one_machine(pattern):
    found = {name: found for name, text in tracked_texts() if (found := hits(pattern, text))}
    assert found == {}


def test_no_tracked_file_names_a_package_registry():
    found = {name for name, text in tracked_texts() for host in REGISTRIES if host in text}
    assert found <= {"libs/contracts/src/nightshift/contracts/hosts.py"}  # what builds may reach by default


def test_the_path_search_finds_an_example():
    path = "work" + "/"
    assert hits(PRIVATE_PATHS[0], f"see /{path}x") == [f"/{path}"]
    assert hits(PRIVATE_PATHS[0], f"a/{path}x, ./{path}x") == []


def test_locked_packages_have_hashes_and_no_address():
    entries = [entry for entry in re.split(r"\n(?=\S)", LOCK) if entry and not entry.startswith("#")]
    assert len(entries) > 50
    for entry in entries:
        assert "--hash=sha256:" in entry, entry.splitlines()[0]
    assert "://" not in LOCK


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("member", MEMBERS, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_a_members_dependencies_are_locked_or_members(member):
    locked = {normal(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", LOCK, re.MULTILINE)}
    own = {tomllib.loads(path.read_text())["project"]["name"] for path in MEMBERS}
    project = tomllib.loads(member.read_text())["project"]
    needs = {normal(re.split(r"[\[<>=!~; ]", need)[0]) for need in project["dependencies"]}
    assert needs - locked - own == set()


@pytest.mark.parametrize("member", MEMBERS, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_members_have_the_same_metadata(member):
    meta = tomllib.loads(member.read_text())
    folder = member.parent
    module = meta["tool"]["uv"]["build-backend"]["module-name"]
    assert meta["project"]["license"] == "Apache-2.0"
    assert meta["project"]["requires-python"] == ">=3.11"
    assert (folder / "src" / Path(*module.split(".")) / "py.typed").exists()
    assert (folder / meta["project"]["readme"]).exists()


def test_no_member_depends_on_the_simulation():
    depending = [
        str(member.parent.relative_to(ROOT))
        for member in MEMBERS
        if "nightshift-simulation" in " ".join(tomllib.loads(member.read_text())["project"]["dependencies"])
    ]
    assert depending == []


def test_a_cluster_id_never_looks_like_an_option(monkeypatch):
    """An id that begins with `-` would stop the server from starting."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    script = runpy.run_path(str(ROOT / "scripts/kafka_server.py"))
    drawn = {script["cluster_id"]() for _ in range(2000)}
    assert len(drawn) == 2000
    assert not [one for one in drawn if one.startswith("-")]
    assert {len(one) for one in drawn} == {22}


@pytest.mark.parametrize(
    ("script", "arguments", "complaint"),
    [
        ("kafka", ["run"], "a command after --"),
        ("kafka", ["stop", "--", "true"], "a command after --"),
        ("s3", ["run", "true"], "unrecognized arguments"),
        ("postgres", ["run", "15"], "a command after --"),
        ("postgres", ["fetch", "--", "true"], "a command after --"),
        ("postgres", ["run", "14", "15", "--", "true"], "there is no version 14 here, only 15, 16, 17"),
    ],
)
def test_a_server_script_rejects_wrong_arguments(script, arguments, complaint):
    command = [sys.executable, ROOT / f"scripts/{script}_server.py", *arguments]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 2
    assert complaint in ran.stderr


@pytest.mark.parametrize("script", ["scripts/setup.sh", "scripts/lock.sh", ".ci/run"])
def test_shell_scripts_are_valid_strict_and_executable(script):
    path = ROOT / script
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
    assert "set -euo pipefail" in path.read_text()
    assert path.stat().st_mode & 0o100
