"""Distinguishes failures from exit codes that are an answer, such as 1 of grep for "nothing found"."""

import shlex
from typing import Final

_QUESTIONS: Final = frozenset(
    ("grep", "egrep", "fgrep", "zgrep", "rg", "diff", "cmp", "test", "[", "[[", "find", "pgrep", "which")
)
_SEPARATORS: Final = frozenset((";", "|", "||", "&", "|&"))


def is_failure(command: str, exit_code: int, *, errors: bool) -> bool:
    """Return whether this exit code of a shell command means a failure.

    `errors` says whether the command wrote to stderr. Exit code 1 is no failure if all of this is true: stderr is
    empty, the last program uses 1 for "no" (as grep does), and no earlier program can have caused it.
    """
    if exit_code != 1 or errors:
        return exit_code != 0
    try:
        lexer = shlex.shlex(command.strip().replace("\n", " ; "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        lexer.commenters = ""
        tokens = list(lexer)
    except ValueError:
        return True
    if any(word in tokens for word in ("pipefail", "-e", "errexit", "<<")) and "set" in tokens:
        return True
    words: list[str] = []
    for token in tokens:
        if token in _SEPARATORS:
            words = []
        elif token == "&&":  # noqa: S105 - a shell operator
            if words[:1] not in (["cd"], []):
                return True
            words = []
        else:
            words.append(token)
    while words and "=" in words[0] and words[0].split("=")[0].isidentifier():
        words = words[1:]
    return not words or words[0].rpartition("/")[2] not in _QUESTIONS
