"""The file types to which the tool grep can restrict its search."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

#: The file name endings of each file type. The types have the same names as in ripgrep.
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
