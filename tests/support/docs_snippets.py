"""The code blocks of the documentation, as they are printed."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^( *)```([a-z]+)([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Snippet:
    """A block. `words` are those behind the language, such as `background`."""

    page: str
    line: int
    language: str
    words: tuple[str, ...]
    text: str

    def commands(self) -> Iterator[str]:
        """Yield the commands of a `console` or `sh` block, without comments and without what they print."""
        for line in self.text.splitlines():
            command = re.sub(r"\s+#.*", "", line.removeprefix("$ "))
            if self.language == "sh" or line.startswith("$ "):
                yield command


def snippets(page: Path) -> list[Snippet]:
    """Return the blocks of a page in order."""
    text = page.read_text()
    return [
        Snippet(
            str(page.relative_to(DOCS)),
            text.count("\n", 0, found.start()) + 1,
            found[2],
            tuple(found[3].split()),
            textwrap.dedent(found[4]),
        )
        for found in _BLOCK.finditer(text)
    ]


def pages() -> list[Path]:
    """Return all pages that people write, in order."""
    return sorted(page for page in DOCS.rglob("*.md") if page.parent.name != "adr")
