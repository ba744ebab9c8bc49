"""What our code may not rely on: the machine's locale, and the newest patch of the oldest Python that we support."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[3]
SOURCES = sorted(
    path for folder in ("libs/*/src", "services/*/src", "cli/src") for path in ROOT.glob(f"{folder}/**/*.py")
)


def nodes():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            yield path.relative_to(ROOT).as_posix(), node


def as_text_of_the_locale(call: ast.Call) -> bool:
    """Whether the call reads or writes text and leaves it to the machine in which encoding."""
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


def test_no_file_is_read_or_written_in_the_encoding_of_the_machine():
    found = [
        f"{path}:{node.lineno}"
        for path, node in nodes()
        if isinstance(node, ast.Call) and as_text_of_the_locale(node)
    ]
    assert found == []


def test_no_error_passes_through_except_star():
    """Before Python 3.11.4 what is raised there comes out within a group, and nobody knows it by its type."""
    assert [f"{path}:{node.lineno}" for path, node in nodes() if isinstance(node, ast.TryStar)] == []
