"""Hooks of mkdocs: the architecture becomes a page, and links to files outside `docs` become the paths of the files.

The site has no address of the repository, so such a link cannot lead anywhere. It must name a file that is there.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).parents[1]
#: Pages that are made from a file at the root of the repository.
_PAGES = {"architecture.md": "ARCHITECTURE.md"}
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


class BrokenLink(Exception):
    """A page links to a file that is not there."""


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages of the root. List the decisions and the pages that the navigation does not name."""
    for page, source in _PAGES.items():
        text = (_ROOT / source).read_text().replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    decisions = sorted(file.src_uri for file in files if file.src_uri.startswith("adr/"))
    for section in config.nav:
        for place, entry in enumerate(section.get("Explanation", [])):
            if entry == {"Decisions": "adr/"}:
                section["Explanation"][place] = {"Decisions": decisions}
    named = set(_named(config.nav))
    if more := sorted(
        file.src_uri for file in files if file.is_documentation_page() and file.src_uri not in named
    ):
        config.nav.append({"More": more})
    return files


def _named(entry: Any) -> Iterator[str]:
    """Yield the pages that a part of the navigation names."""
    match entry:
        case str():
            yield entry
        case dict():
            for below in entry.values():
                yield from _named(below)
        case list():
            for below in entry:
                yield from _named(below)


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Replace each link to a file outside the site by the path of the file. Raises BrokenLink."""
    folder = posixpath.dirname(page.file.src_uri)
    outside = {f"../{source}": page_uri for page_uri, source in _PAGES.items()}

    def shown(found: re.Match[str]) -> str:
        words, target, anchor = found[1], found[2], found[3] or ""
        path = posixpath.normpath(posixpath.join(folder, target))
        if path in outside:
            return f"[{words}]({posixpath.relpath(outside[path], folder or '.')}{anchor})"
        if files.get_file_from_path(path) is not None or files.get_file_from_path(f"{path}/index.md"):
            return found[0]
        inside = _ROOT / "docs" / path
        of_root = _ROOT / path if page.file.src_uri in _PAGES else inside
        if inside.exists() or of_root.exists():
            name = of_root.resolve().relative_to(_ROOT)
            return f"{words} (`{name}`)" if str(name) not in words else words
        raise BrokenLink(f"{page.file.src_uri}: {target} is not there")

    return _LINK.sub(shown, markdown)
