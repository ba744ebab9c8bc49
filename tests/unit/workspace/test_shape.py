"""The shape of the repository: sizes of modules, names of tests, READMEs of members, and words not to use in code."""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDERS = ("libs", "services", "cli", "tests", "bench", "examples", "scripts", "docs")
MAX_LINES = 400
MAX_TEST_NAME = 60
MIN_README_LINES = 10

#: Member → identifiers that the glossary of names replaced. "" is every member.
FORBIDDEN = {
    "": "Workshop Inbox Roster Crew GroundProbe HintSource Town Weather Party Shelf Plant FetchPace warm_process",
    "orchestrator": "Journal Meter Written Talk Place Trouble Money Mode",
    "devstack": "Journal Warm Adopted Place",
    "bus": "Lane letters Letter Parking parked drive driven Settler Intake Feed Look patience_s ground ground_cap_s"
    " bell Hint wakes",
    "eventlog": "Hint bell wakes",
    "servicekit": "ground ground_cap_s",
    "budget": "Books Step say Clockwork Budget",
    "sandbox-gateway": "Desk Boxes Answers Outcome",
    "sandboxes": "Keeper beneath",
    "cli": "standing following awaiting reading sending Face story",
    "simulation": "Life judge shelf plant party weather",
    "relay": "Lane Told Held Extent Times Watch Group",
}
#: Class names that several members used for different things. At most one class may have each.
COLLISIONS = {"Place", "Source", "Limits", "View", "Policy", "KafkaProducer", "Lane", "Partition"}


def modules(root: Path) -> list[Path]:
    """Returns every Python file of the repository."""
    found = (path for folder in FOLDERS for path in (root / folder).rglob("*.py"))
    return sorted(path for path in found if "__pycache__" not in path.parts)


def members(root: Path) -> list[Path]:
    """Returns the folder of each member."""
    return [*sorted(path.parent for path in root.glob("*/*/pyproject.toml")), root / "cli"]


def too_long(root: Path) -> Iterator[str]:
    for path in modules(root):
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES:
            yield f"{path.relative_to(root)}: {lines} lines"


def long_test_names(root: Path) -> Iterator[str]:
    for path in modules(root):
        for name in re.findall(
            r"^\s*(?:async )?def test_(\w+)", path.read_text(encoding="utf-8"), re.MULTILINE
        ):
            if len(name) > MAX_TEST_NAME:
                yield f"{path.relative_to(root)}: test_{name}: {len(name)} characters"


def short_readmes(root: Path) -> Iterator[str]:
    for member in members(root):
        readme = member / "README.md"
        text = readme.read_text(encoding="utf-8") if readme.exists() else ""
        if (lines := sum(bool(line.strip()) for line in text.splitlines())) < MIN_README_LINES:
            yield f"{readme.relative_to(root)}: {lines} lines"


def forbidden_names(root: Path) -> Iterator[str]:
    for member in members(root):
        words = set(f"{FORBIDDEN['']} {FORBIDDEN.get(member.name, '')}".split())
        for path in sorted((member / "src").rglob("*.py")):
            for name in sorted(words & defined(path)):
                yield f"{path.relative_to(root)}: {name}"


def collisions(root: Path) -> Iterator[str]:
    classes: Counter[str] = Counter()
    for member in members(root):
        for path in (member / "src").rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            classes.update(node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    for name in sorted(COLLISIONS):
        if classes[name] > 1:
            yield f"{name}: {classes[name]} classes"


def defined(path: Path) -> set[str]:
    """Returns the module's name and the names of its classes, functions, parameters and variables."""
    found = {path.stem}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.arg(arg=name) | ast.alias(asname=str(name)):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                found.add(name)
            case _:
                pass
    return {name.strip("_") for name in found}


CHECKS = (too_long, long_test_names, short_readmes, forbidden_names, collisions)


def report(root: Path, checks: Iterable = CHECKS) -> Sequence[str]:
    """Returns what every check finds."""
    return [line for check in checks for line in check(root)]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_repository_keeps_its_shape(check):
    assert list(check(ROOT)) == []


def test_each_check_finds_what_it_looks_for(tmp_path):
    member = tmp_path / "libs/bus"
    source = member / "src/nightshift/bus"
    source.mkdir(parents=True)
    (tmp_path / "cli").mkdir()
    (member / "pyproject.toml").touch()
    (member / "README.md").write_text("one line\n")
    (source / "lane.py").write_text("class Policy: ...\nclass Lane: ...\n" + "\n" * MAX_LINES)
    (source / "other.py").write_text(f"class Policy: ...\ndef test_{'x' * 61}(patience_s): ...\n")
    (source / "third.py").write_text("self.parked = 1\n")
    found = [line.partition(": ")[2] for line in report(tmp_path)]
    assert found[0] == f"{MAX_LINES + 2} lines"
    assert found[1].endswith("61 characters")
    assert {"1 lines", "Lane", "patience_s", "parked", "2 classes"} <= set(found)


def test_code_that_uses_only_standard_words_passes(tmp_path):
    source = tmp_path / "libs/bus/src"
    source.mkdir(parents=True)
    (tmp_path / "cli").mkdir()
    (tmp_path / "libs/bus/pyproject.toml").touch()
    (tmp_path / "libs/bus/README.md").write_text("line\n" * MIN_README_LINES)
    (tmp_path / "cli/README.md").write_text("line\n" * MIN_README_LINES)
    (source / "worker.py").write_text("class PartitionWorker:\n    parked_before = 1\n")
    assert report(tmp_path) == []
