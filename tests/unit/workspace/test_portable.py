"""The code does not depend on the machine's locale or on a patch release of Python."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
SOURCES = sorted(
    path for folder in ("libs/*/src", "services/*/src", "cli/src") for path in ROOT.glob(f"{folder}/**/*.py")
)


def nodes(words: str):
    """The nodes of every module whose text matches `words`: to parse all of them takes seconds."""
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        if re.search(words, text):
            for node in ast.walk(ast.parse(text)):
                yield path.relative_to(ROOT).as_posix(), node


def uses_locale_encoding(call: ast.Call) -> bool:
    """Whether the call reads or writes text without naming an encoding."""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in given:
        return False
    match call.func:
        case ast.Attribute(attr="read_text" | "write_text"):
            return True
        case (
            ast.Attribute(value=ast.Name(id="os"), attr="open")
            | ast.Attribute(value=ast.Name(id="webbrowser"))
        ):
            return False
        case ast.Name(id="open") | ast.Attribute(attr="fdopen"):
            mode = call.args[1] if len(call.args) > 1 else given.get("mode", ast.Constant("r"))
        case ast.Attribute(attr="open"):
            mode = call.args[0] if call.args else given.get("mode", ast.Constant("r"))
        case _:
            return isinstance(given.get("text"), ast.Constant)
    return isinstance(mode, ast.Constant) and set(str(mode.value)) <= set("rwax+t")


def test_every_text_file_is_opened_with_an_encoding():
    found = [
        f"{path}:{node.lineno}"
        for path, node in nodes(r"read_text|write_text|open\(|text=")
        if isinstance(node, ast.Call) and uses_locale_encoding(node)
    ]
    assert found == []


def test_no_code_uses_except_star():
    """Before Python 3.11.4 an error raised inside `except*` arrives in a group, so no caller matches its type."""
    assert [
        f"{path}:{node.lineno}" for path, node in nodes(r"\bexcept\s*\*") if isinstance(node, ast.TryStar)
    ] == []
