"""Every setting, exit code and decision record that a text names is there."""

import ast
import importlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from nightshift.cli import main as entry
from nightshift.cli.exits import Exit
from nightshift.eventlog.setting_names import KNOWN
from nightshift.eventlog.settings import PREFIX, Environment

ROOT = Path(__file__).parents[3]
NAME = re.compile(r"\bNIGHTSHIFT_[A-Z0-9_]*")


def texts(*patterns: str) -> dict[Path, str]:
    """The tracked files that match, and new ones, without this file."""
    command = ["git", "ls-files", "-zco", "--exclude-standard", "--", *patterns]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    paths = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    return {path: path.read_text(encoding="utf-8") for path in paths if path != Path(__file__)}


def settings() -> Iterator[str]:
    """The variables of every settings class."""
    for path in ROOT.glob("*/*/src/**/settings.py"):
        importlib.import_module(".".join(path.relative_to(ROOT).parts[3:]).removesuffix(".py"))
    waiting = [Environment]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        yield from (f"{PREFIX}{field.upper()}" for field in kind.model_fields)


def read_directly(path: Path, text: str) -> Iterator[str]:
    """The variables that code takes from the environment without a settings class."""
    if not NAME.search(text):
        return
    if path.suffix != ".py":
        yield from re.findall(r"\$[({]?(NIGHTSHIFT_[A-Z0-9_]+)", text)
        return
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Subscript(value=ast.Attribute(attr="environ"), slice=ast.Constant(value=name)):
                yield str(name)
            case ast.Call(func=ast.Attribute(attr="get" | "getenv"), args=[ast.Constant(value=name), *_]):
                yield str(name)
            case ast.Assign(value=ast.Constant(value=str() as name)) if NAME.fullmatch(name):
                yield name


def test_every_setting_that_a_text_names_exists():
    files = texts("*.md", "*.py", "*.sh", "*.yaml", "*.toml", "Makefile", ".ci/run")
    known = set(settings()) | KNOWN
    assert len(known) > 60
    for path, text in files.items():
        known |= {name for name in read_directly(path, text) if NAME.fullmatch(name)}
    for path, text in files.items():
        if path.is_relative_to(ROOT / "tests"):
            continue  # a test may bring settings of its own
        for name in NAME.findall(text):
            exists = name in known or (name.endswith("_") and any(one.startswith(name) for one in known))
            assert exists, f"{path.relative_to(ROOT)} names {name}"


def test_the_overview_lists_the_exit_codes_that_commands_use():
    listed = {int(code) for code in re.findall(r"\b(\d+) [a-z]", entry._EPILOGUE.partition("Exit codes:")[2])}
    assert listed == set(Exit)
    commands = "".join(texts("cli/src/*.py").values())
    for code in Exit:
        assert f"Exit.{code.name}" in commands, f"no command returns {code.name}"


def test_every_exit_code_that_a_text_names_exists():
    for path, text in texts("*.md", "cli/src/*.py").items():
        for code in re.findall(r"\bexit code (\d+)|\bexits (?:with )?(\d+)", text, re.IGNORECASE):
            assert int("".join(code)) in set(Exit), (
                f"{path.relative_to(ROOT)} names exit code {''.join(code)}"
            )


def test_every_decision_record_that_a_text_names_exists():
    records = {path.name[:4] for path in (ROOT / "docs/adr").glob("[0-9]*.md")}
    for path, text in texts("*.md", "*.py", "*.sql", "*.yaml", "Makefile").items():
        for number in re.findall(r"\badr/(\d{4})|\bADR[ -](\d{1,4})", text):
            assert "".join(number).zfill(4) in records, (
                f"{path.relative_to(ROOT)} names ADR {''.join(number)}"
            )
