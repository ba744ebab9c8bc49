"""Rules that import-linter cannot check: no impure call in a domain, no dependency of contracts but pydantic."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOMAINS = sorted(ROOT.glob("services/*/src/nightshift/*/domain/**/*.py"))
CONTRACTS = sorted((ROOT / "libs/contracts/src").rglob("*.py"))

#: Methods that read a clock or draw a random value, and functions that do that or IO.
IMPURE_ATTRIBUTES = {"now", "utcnow", "today", "fromtimestamp", "uuid1", "uuid4", "uuid6", "uuid7"}
IMPURE_NAMES = {"open", "print", "input", "exec", "eval", "__import__", "uuid1", "uuid4", "uuid6", "uuid7"}


def impurities(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=name)) if name in IMPURE_ATTRIBUTES:
                yield f"line {node.lineno}: .{name}()"
            case ast.Call(func=ast.Name(id=name)) if name in IMPURE_NAMES:
                yield f"line {node.lineno}: {name}()"
            case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
                yield f"line {node.lineno}: async"
            case (
                ast.ImportFrom(module="urllib.request") | ast.Import(names=[ast.alias(name="urllib.request")])
            ):
                yield f"line {node.lineno}: urllib.request"
            case ast.Global():
                yield f"line {node.lineno}: global"


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module


@pytest.mark.parametrize(
    "source",
    [
        "import datetime\nx = datetime.datetime.now()",
        "x = date.today()",
        "from uuid import uuid4\nx = uuid4()",
        "import uuid\nx = uuid.uuid4()",
        "x = open('f')",
        "async def f():\n    pass",
        "def f():\n    global x",
        "from urllib.request import urlopen",
        "import urllib.request",
    ],
)
def test_an_impure_call_is_found(source):
    assert list(impurities(ast.parse(source)))


def test_the_search_covers_every_domain():
    assert {path.relative_to(ROOT).parts[1] for path in DOMAINS} >= {"budget", "orchestrator", "relay"}


@pytest.mark.parametrize("path", DOMAINS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_domain_is_pure(path):
    assert list(impurities(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize("path", CONTRACTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_contracts_import_only_pydantic_and_the_stdlib(path):
    allowed = set(sys.stdlib_module_names) | {"pydantic", "pydantic_core"}
    foreign = {
        name
        for name in imported(ast.parse(path.read_text()))
        if name.split(".")[0] not in allowed and not name.startswith("nightshift.contracts")
    }
    assert foreign == set()


def test_the_namespace_has_no_init_file():
    # Python would then find only the package of this one member.
    assert (
        list(ROOT.glob("*/*/src/nightshift/__init__.py")) + list(ROOT.glob("cli/src/nightshift/__init__.py"))
        == []
    )
