"""The site builds without a broken link, the generated pages are current, and every printed command exists."""

import json
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module

import cyclopts
import pytest
import yaml
from tests.support.docs_snippets import DOCS, Snippet, pages, snippets

from nightshift.cli.main import NAMES

ROOT = DOCS.parent


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=100
    )


def test_the_site_builds_without_a_broken_link(tmp_path):
    ran = _run(sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site"))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (tmp_path / "site/tutorial/first-build/index.html").is_file()
    assert (tmp_path / "site/architecture/index.html").is_file()


def test_the_generated_pages_are_current():
    ran = _run(sys.executable, "scripts/reference.py", "--check")
    assert ran.returncode == 0, ran.stderr


def test_every_printed_command_exists_with_its_options():
    wrong = [
        f"{snippet.page}:{snippet.line}: {command}: {problem}"
        for page in pages()
        for snippet in snippets(page)
        if snippet.language in ("sh", "console") and "other" not in snippet.words
        for command in snippet.commands()
        if command.startswith("nightshift ")
        for problem in _problems(command)
    ]
    assert wrong == []


def _problems(command: str) -> list[str]:
    alone = re.split(r"\||&&|>|\$\(", command)[0]
    words = shlex.split(alone)
    name = words[1]
    if name.startswith("-"):
        return []
    if name not in NAMES:
        return ["no such command"]
    app: cyclopts.App = import_module(f"nightshift.cli.commands.{name}").app
    try:
        app.parse_args(words[2:], exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        return [" ".join(str(error).split())]
    return []


def _data() -> list[Snippet]:
    return [snippet for page in pages() for snippet in snippets(page) if snippet.language in ("json", "yaml")]


@pytest.mark.parametrize("snippet", _data(), ids=lambda one: f"{one.page}:{one.line}")
def test_every_printed_document_parses(snippet: Snippet):
    text = snippet.text.strip()
    if snippet.language == "yaml":
        yaml.safe_load(text)
    else:
        json.loads(text if text.startswith(("{", "[")) else f"{{{text}}}")
