"""Matches the patterns of approval rules against texts, paths and commands."""

import posixpath
import re
from collections.abc import Iterator
from itertools import product

from nightshift.contracts.tools import WORKSPACE

#: Stands for a word that only the shell can know.
UNKNOWN = "\ufffc"
#: The most options of a command that may or may not have a value, and for which all cases are tried.
_OPTIONS = 8

Words = tuple[str | None, ...]


def glob(pattern: str, text: str) -> bool:
    """Return whether the text matches the pattern, in which `*` stands for any text.

    A space and `*` at the end may also be missing in the text: `git push *` matches `git push`.
    """
    if pattern.endswith(" *") and text == pattern[:-2]:
        return True
    first, *middle = pattern.split("*")
    if not middle:
        return text == pattern
    last = middle.pop()
    if not text.startswith(first) or len(text) < len(first) + len(last) or not text.endswith(last):
        return False
    place, end = len(first), len(text) - len(last)
    for piece in middle:
        place = text.find(piece, place, end)
        if place < 0:
            return False
        place += len(piece)
    return True


def path_matches(pattern: str, path: str) -> bool:
    """Return whether the path matches, either as an absolute path or relative to the workspace.

    Symbolic links are not followed.
    """
    whole = posixpath.normpath(posixpath.join(WORKSPACE, path))
    return glob(pattern, whole) or glob(pattern, posixpath.relpath(whole, WORKSPACE))


def command_matches(pattern: str, words: Words) -> bool:
    """Return whether the command `words` matches the pattern or may match it. A word that is None may be any text.

    Options between the words of a pattern do not matter. So `git push *` matches `git -C app push`.
    """
    if not words or words[0] is None:
        return True
    named = (posixpath.basename(words[0]), *words[1:])
    if _text_matches(pattern, words) or _text_matches(pattern, named):
        return True
    if not glob(pattern.split(" ", maxsplit=1)[0], posixpath.basename(words[0])):
        return False
    return any(_text_matches(pattern, one) for one in _without_options(named))


def is_allowed(pattern: str, words: Words) -> bool:
    """Return whether the command `words` certainly matches the pattern.

    A word that is None is not known before the command runs, so only a `*` matches it.
    """
    return bool(words) and words[0] is not None and glob(pattern, _joined(words))


def phrase_in(pattern: str, code: str) -> bool:
    """Return whether code, such as a Python script, contains the pattern's words before the first `*`, one after the
    other.

    Signs between the words of the code are ignored. A pattern without such words always matches.
    """
    phrase = " ".join(re.findall(r"[\w.-]+", pattern.partition("*")[0]))
    found = " ".join(re.findall(r"[\w.-]+", code))
    return not phrase or f" {phrase}" in f" {found}"


def _text_matches(pattern: str, words: Words) -> bool:
    if glob(pattern, _joined(words)):
        return True
    if None not in words:
        return False
    known = _joined(words[: words.index(None)]) + " "
    literal = pattern.partition("*")[0]
    return known.startswith(literal) or literal.startswith(known)


def _joined(words: Words) -> str:
    return " ".join(UNKNOWN if word is None else " ".join(word.split()) for word in words)


def _without_options(words: Words) -> Iterator[Words]:
    """Yield the command `words` without its options.

    It is unknown whether an option takes the next word as its value. So every combination of these cases is yielded.
    """
    takers = [
        place
        for place, word in enumerate(words[:-1])
        if place
        and word is not None
        and word.startswith("-")
        and not (words[place + 1] or "x").startswith("-")
    ]
    if len(takers) > _OPTIONS:
        yield (words[0], None)  # there are too many options to try, so anything may follow
        return
    for choice in product((False, True), repeat=len(takers)):
        values = {place + 1 for place, takes in zip(takers, choice, strict=True) if takes}
        yield tuple(
            word
            for place, word in enumerate(words)
            if place not in values and not (place and word is not None and word.startswith("-"))
        )
