"""The file types by which the tool grep narrows its search."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

#: File types, named as in ripgrep, and their file name endings.
FILE_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "c": "c,h",
        "cpp": "cpp,cc,cxx,hpp,hh,hxx,h",
        "cs": "cs",
        "css": "css,scss,sass,less",
        "go": "go",
        "html": "html,htm",
        "java": "java",
        "js": "js,jsx,mjs,cjs,vue",
        "json": "json",
        "kotlin": "kt,kts",
        "md": "md,markdown,mdx",
        "php": "php",
        "py": "py,pyi",
        "ruby": "rb",
        "rust": "rs",
        "sh": "sh,bash,zsh",
        "sql": "sql",
        "swift": "swift",
        "toml": "toml",
        "ts": "ts,tsx,mts,cts",
        "txt": "txt",
        "xml": "xml",
        "yaml": "yaml,yml",
    }
)
