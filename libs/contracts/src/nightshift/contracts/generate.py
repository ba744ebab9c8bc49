"""Generates the JSON Schemas, the AsyncAPI document and the reference page from the contracts.

Run it in the root of the repository: `python -m nightshift.contracts.generate [--check] [--release VERSION]`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from nightshift.contracts import asyncapi
from nightshift.contracts.model import Owner
from nightshift.contracts.reference import events_page
from nightshift.contracts.registry import CATALOGUE, wire_name
from nightshift.contracts.schemas import consumer_schema, producer_schema

#: Shipped in the wheel, so that a consumer can validate events without a network.
SCHEMAS: Final = Path(__file__).parent / "schemas"
DOCS: Final = Path("docs/reference")
HISTORY: Final = Path("libs/contracts/history")


def schema_files() -> dict[str, str]:
    """Returns path → text of each schema file, for the newest version of every event type."""
    files = {"asyncapi.json": _text(asyncapi.document())}
    for model in CATALOGUE.newest.values():
        name = wire_name(model.type, model.version)
        files[f"consumer/{name}.json"] = _text(consumer_schema(model))
        if model.owner is Owner.OUTSIDE:
            files[f"producer/{name}.json"] = _text(producer_schema(model))
    return files


def release_bundle() -> str:
    """Returns all schemas of this release as one JSON text. Tests compare later releases with it."""
    bundle = {}
    for model in CATALOGUE.newest.values():
        schema = producer_schema if model.owner is Owner.OUTSIDE else consumer_schema
        bundle[wire_name(model.type, model.version)] = schema(model)
    return _text(bundle)


def _wanted() -> dict[Path, str]:
    schemas = {SCHEMAS / name: text for name, text in schema_files().items()}
    return {**schemas, DOCS / "events.md": events_page()}


def _text(document: Any) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def stale() -> list[Path]:
    """Returns the generated files whose content is out of date."""
    wanted = _wanted().items()
    return [path for path, text in wanted if not path.is_file() or path.read_text(encoding="utf-8") != text]


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes all files and returns 0. With --check it writes nothing, and returns 1 when a file is out of date."""
    parser = argparse.ArgumentParser(prog="python -m nightshift.contracts.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, print the files that differ")
    parser.add_argument("--release", metavar="VERSION", help="also keep the schemas as those of this release")
    options = parser.parse_args(arguments)
    if options.check:
        for path in (differing := stale()):
            print(f"differs: {path}", file=sys.stderr)  # noqa: T201 - a command's answer
        return 1 if differing else 0
    for path, text in _wanted().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if options.release:
        HISTORY.mkdir(parents=True, exist_ok=True)
        (HISTORY / f"{options.release}.json").write_text(release_bundle(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
