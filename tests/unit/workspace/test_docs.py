"""Links, make targets and commands that the documents name exist."""

import re
import subprocess
from pathlib import Path

import pytest

from nightshift.cli.main import NAMES

ROOT = Path(__file__).parents[3]
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
REQUIRED_TARGETS = {"setup", "demo", "test", "check", "bench", "test-long", "test-kafka", "clean", "help"}
REQUIRED = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LICENSE"]


def documents() -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "-z", "*.md"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def prose(path: Path) -> str:
    return re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)


def anchor(heading: str) -> str:
    """Returns the fragment of a heading in a link."""
    words = re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower())
    return words.replace(" ", "-")


@pytest.mark.parametrize("name", REQUIRED)
def test_the_required_documents_exist(name):
    assert (ROOT / name).stat().st_size > 500


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_point_to_files_and_headings(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, fragment = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert fragment in map(anchor, headings), target


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_named_make_targets_exist(path):
    named = set(re.findall(r"(?:`|^\s*|\$ )make ([a-z][a-z0-9-]*)", path.read_text(), re.MULTILINE))
    assert named <= TARGETS


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_code_blocks_exist(path):
    known = set(NAMES)
    blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", path.read_text(), flags=re.DOTALL)
    named = {
        name
        for block in blocks
        for name in re.findall(r"^(?:\$ )?(?:\.venv/bin/)?nightshift ([a-z]+)", block, re.MULTILINE)
    }
    assert named <= known


def test_make_help_explains_every_required_target():
    assert TARGETS >= REQUIRED_TARGETS
    help_text = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    for target in REQUIRED_TARGETS:
        assert re.search(rf"make {target}\s+\w{{3,}}", help_text.stdout), target


def test_ci_runs_exactly_the_testing_targets():
    run = re.search(r"^steps=\((.*)\)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert run is not None
    # `make`, its flags, and one target.
    named = {
        re.fullmatch(r"make (?:--\S+ )*(\S+)", step)[1] for step in re.findall(r'"([^"]*)"', run.group(1))
    }
    assert named == {"check", *(target for target in TARGETS if re.fullmatch("test(-long|-kafka)?", target))}


def test_every_adr_has_its_sections_and_fits_a_page():
    records = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
    assert [int(path.name[:4]) for path in records] == list(range(1, len(records) + 1))
    assert len(records) >= 6
    for path in records:
        headings = re.findall(r"^## (.*)$", path.read_text(), re.MULTILINE)
        assert headings[:3] == ["Context", "Decision", "Consequences"], path.name
        assert len(path.read_text().splitlines()) <= 60, path.name


def test_the_readme_prints_only_commands_that_tests_run():
    """`tests/e2e/devstack/test_readme_commands.py` runs the commands, `tests/e2e/demo` the demo, CI the targets.

    `tests/deploy/test_compose.py` runs what `make image` and `docker compose` begin.
    """
    blocks = re.findall(
        r"```(?:sh|bash|console)\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL
    )
    lines = [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()]
    others = {line for line in lines if not line.startswith(".venv/bin/nightshift ")}
    compose = {line for line in others if "docker compose " in line} | {"make image"}
    assert others - compose == {"make setup", "make demo", "make check", "make test"}
    assert re.search(
        r"^demo: setup .*\n\t@\.venv/bin/nightshift demo$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
