"""Finds the commands that a shell text runs, including those in pipes, substitutions and `sh -c`.

A word that only the shell can know, such as `$x` or `*.py`, is None. A part that cannot be read becomes a `doubt`.
"""

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

Words = tuple[str | None, ...]

_BASH = Language(tree_sitter_bash.language())
#: The most characters that are read, the most levels of texts inside texts, and the most commands. For the worst texts
#: of this length the parser takes up to a second, and four times as long for twice the length.
_LONGEST, _DEEPEST, _MOST = 8_000, 4, 300
#: A here-document that the shell does not expand, and how many of them are left out of a long text.
_DOCUMENT = re.compile(r"<<-?\s*(['\"])(\w+)\1[^\n]*\n")
_DOCUMENTS = 20
#: The most words of all commands together. A word counts again for each command that may be run by another one.
_MOST_WORDS = 6_000
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "ash"})
#: Programs that run the command that is in their arguments.
_WRAPPERS = frozenset(
    {
        "sudo",
        "doas",
        "env",
        "nohup",
        "time",
        "nice",
        "ionice",
        "timeout",
        "stdbuf",
        "setsid",
        "exec",
        "command",
    }
    | {
        "builtin",
        "xargs",
        "chroot",
        "unshare",
        "flock",
        "watch",
        "strace",
        "busybox",
        "find",
        "ssh",
        "su",
        "script",
    }
    | {"parallel", "tmux", "screen", "docker", "podman", "kubectl", "npx"}
)
#: Programs that run code of another language. That code may itself run commands.
_INTERPRETERS = re.compile(r"(python|pypy|node|perl|ruby|php|deno|bun|lua|awk|gawk)[0-9.]*")
_ARGUMENTS = 20
#: Characters beyond ASCII are given to the parser as these letters, because the parser's table is too short for them
#: and the process would crash. Bash treats all of these characters as letters, too.
_OTHER, _CODED = re.compile(r"[^\x00-\x7f]"), re.compile(r"zU([0-9a-f]{2,6})Uz")
_ESCAPED = re.compile(r"\\(\n|.)", re.DOTALL)
_ESCAPED_IN_QUOTES = re.compile(r'\\(["$`\\\n])')
_PATTERN_CHARACTER = re.compile(r"(?<!\\)[*?\[\]{}]")
#: Nodes that are not words of a command.
_REDIRECTS = frozenset({"file_redirect", "heredoc_redirect", "herestring_redirect"})
_HARMLESS_REDIRECT = re.compile(r"\d*(>&|<&)\d|(\d|&)?>>?\s*/dev/null|\d*<[^&<(].*", re.DOTALL)


@dataclass(slots=True)
class ShellText:
    """What a shell text runs.

    - `commands`: the commands in the text itself.
    - `wrapped`: arguments of a command that may run them as a command.
    - `code`: texts for interpreters of other languages.
    - `doubt`: why the text cannot be read for certain, or None.
    - `changes`: the text also writes a file or sets a variable.
    """

    commands: list[Words] = field(default_factory=list)
    wrapped: list[Words] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    doubt: str | None = None
    changes: bool = False

    def doubts(self, reason: str) -> None:
        self.doubt = self.doubt or reason


def read_shell(text: str) -> ShellText:
    """Return the commands that bash would run for this text."""
    found = ShellText()
    _read(text, found, depth=0)
    if sum(map(len, (*found.commands, *found.wrapped))) > _MOST_WORDS:
        found.doubts("the command has too many words to be read")
        del found.commands[_MOST:], found.wrapped[:]
    return found


def program(words: Words) -> str | None:
    """Return the name of the program without its folder, or None when only the shell knows the name."""
    return None if not words or words[0] is None else posixpath.basename(words[0])


def _read(text: str, found: ShellText, *, depth: int) -> None:
    whole = text
    if len(text) > _LONGEST:
        text = _without_documents(text)
    if _CODED.search(text):
        found.doubts("the command cannot be read")
        return
    text = _OTHER.sub(lambda other: f"zU{ord(other[0]):x}Uz", text)
    if len(text) > _LONGEST or depth > _DEEPEST:
        found.doubts("the command is too long or too deep to be read")
        return
    root = Parser(_BASH).parse(text.encode("ascii")).root_node
    if root.has_error:
        found.doubts("the command cannot be read")
    waiting = [root]
    while waiting:
        node = waiting.pop()
        waiting.extend(reversed(node.children))
        if node.type == "variable_assignment":
            found.changes = True
        elif node.type == "file_redirect":
            found.changes = found.changes or not _HARMLESS_REDIRECT.fullmatch(_text(node))
        elif node.type == "command":
            if len(found.commands) >= _MOST:
                found.doubts("the command has too many parts to be read")
                return
            words = tuple(_words(node))
            found.commands.append(words)
            _look_inside(words, node, found, depth)
            if text is not whole and (program(words) in _SHELLS or _interprets(words)):
                found.doubts("the command has a text that is too long to be read")


def _without_documents(text: str) -> str:
    """Return a long text without the bodies of quoted here-documents (`<<'END'`), with which an agent writes files."""
    parts, place = [], 0
    for _ in range(_DOCUMENTS):
        found = _DOCUMENT.search(text, place)
        end = -1 if found is None else text.find(f"\n{found[2]}", found.end() - 1)
        if found is None or end < 0:
            break
        parts.append(text[place : found.end()])
        place = end + 1
    return "".join((*parts, text[place:]))


def _interprets(words: Words) -> bool:
    name = program(words)
    return name is not None and _INTERPRETERS.fullmatch(name) is not None


def _look_inside(words: Words, node: Node, found: ShellText, depth: int) -> None:
    """Add to `found` what the arguments and the input of this command make it run."""
    name = program(words)
    if name is None:
        found.doubts("only the shell knows which program the command runs")
    elif name in _SHELLS:
        _shell(words, node, found, depth)
    elif name == "eval":
        _inner(" ".join(words[1:]) if None not in words else None, found, depth)  # type: ignore[arg-type]
    elif name in {"source", "."} and None in words:
        found.doubts("only the shell knows which script the command runs")
    elif _interprets(words):
        found.code += [word for word in words[1:] if word and not word.startswith("-")]
        found.code += [_text(one) for one in _inputs(node)]
    elif name in _WRAPPERS:
        _wrapped(words, found, depth)


def _shell(words: Words, node: Node, found: ShellText, depth: int) -> None:
    options = [word for word in words[1:] if word is not None and word.startswith("-")]
    if any("c" in word.lstrip("-") and not word.startswith("--") for word in options):
        places = [place for place, word in enumerate(words) if word in options]
        texts = [word for word in words[places[0] + 1 :] if word is None or not word.startswith("-")]
        _inner(texts[0] if texts else None, found, depth)
    elif "--version" in options or "--help" in options:
        return
    elif scripts := [word for word in words[1:] if word is None or not word.startswith("-")]:
        if scripts[0] is None:
            found.doubts("only the shell knows which script the command runs")
    else:
        inputs = [_input(one) for one in _inputs(node)]
        for text in inputs or [None]:
            _inner(text, found, depth)


def _inner(text: str | None, found: ShellText, depth: int) -> None:
    if text is None:
        found.doubts("only the shell knows which commands it runs")
    else:
        _read(text, found, depth=depth + 1)


def _wrapped(words: Words, found: ShellText, depth: int) -> None:
    """Add to `found` each part of the arguments that may be a command.

    It is unknown which arguments are options of the program, so each argument may begin a command.
    """
    for start in range(1, min(len(words), _ARGUMENTS)):
        rest, first = words[start:], words[start]
        if first is None or first.startswith("-") or re.match(r"\w+=", first):
            continue
        found.wrapped.append(rest)
        if program(rest) in _SHELLS and "-c" in rest[:-1]:
            _inner(rest[rest.index("-c") + 1], found, depth)
        elif any(character.isspace() for character in first):
            inside = ShellText()
            _read(first, inside, depth=depth + 1)
            found.wrapped += inside.commands + inside.wrapped
    if None in words[1:2]:
        found.doubts("only the shell knows which command it runs")


def _words(command: Node) -> Iterator[str | None]:
    for child in command.children:
        if child.type == "command_name":
            yield from (_word(one) for one in child.children[:1])
        elif child.is_named and child.type != "variable_assignment" and child.type not in _REDIRECTS:
            yield _word(child)


def _word(node: Node) -> str | None:
    """Return the word without its quotes, or None for a word that only the shell can know."""
    text = _text(node)
    match node.type:
        case "number":
            return text
        case "word":
            return None if _PATTERN_CHARACTER.search(text) else _ESCAPED.sub(_unescaped, text)
        case "raw_string":
            return text[1:-1]
        case "string":
            if any(child.is_named and child.type != "string_content" for child in node.children):
                return None
            return _ESCAPED_IN_QUOTES.sub(_unescaped, text[1:-1])
        case "ansi_c_string" if "\\" not in text:
            return text[2:-1]
        case "concatenation":
            parts = [_word(child) for child in node.children]
            return None if None in parts else "".join(part for part in parts if part is not None)
        case _:
            return None


def _unescaped(match: re.Match[str]) -> str:
    return "" if match[1] == "\n" else match[1]


def _inputs(command: Node) -> list[Node]:
    """Return the here-strings and here-documents of a command, and those of the statement around it."""
    found = [child for child in command.children if child.type == "herestring_redirect"]
    parent = command.parent
    while parent is not None and parent.type in {"pipeline", "redirected_statement", "heredoc_redirect"}:
        for child in parent.children:
            if child.type == "heredoc_redirect":
                found += [one for one in child.children if one.type == "heredoc_body"]
            elif child.type in {"herestring_redirect", "heredoc_body"}:
                found.append(child)
        parent = parent.parent
    return found


def _input(node: Node) -> str | None:
    """Return the text of a here-string or here-document, or None when the shell inserts something into it."""
    if node.type == "herestring_redirect":
        return _word(node.named_children[-1]) if node.named_children else None
    dynamic = any(child.is_named and child.type != "heredoc_content" for child in node.children)
    return None if dynamic else _text(node)


def _text(node: Node) -> str:
    return _CODED.sub(lambda coded: chr(int(coded[1], 16)), (node.text or b"").decode("ascii", "replace"))
