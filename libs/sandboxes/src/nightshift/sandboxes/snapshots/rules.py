"""Which paths snapshots leave out, and the project's own rules in `.nightshift/snapshot.yaml`.

exclude: ["data/raw", "*.sqlite"]    left out of snapshots, with patterns like those of .gitignore
include: [".cache"]                  kept although the defaults leave it out
rebuild: ["npm ci"]                  run after a restore, before the agent goes on
"""

from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from nightshift.eventlog.errors import Refused
from nightshift.sandboxes.errors import FileRefused
from nightshift.sandboxes.port import Sandbox

#: The file with a project's rules, relative to the workspace.
RULES_FILE = ".nightshift/snapshot.yaml"
#: Directories that snapshots leave out by default, because tools fill them again. Directories of dependencies are kept.
DEFAULT_EXCLUDE: tuple[str, ...] = (
    "__pycache__/",
    ".pytest_cache/",
    ".mypy_cache/",
    ".ruff_cache/",
    ".cache/",
    ".npm/",
    ".parcel-cache/",
    ".turbo/",
)
_BYTES, _PATTERNS = 64 * 1024, 200


class RulesRefused(Refused):
    """The project's rules file cannot be used. The message says why."""


@dataclass(frozen=True, slots=True)
class SnapshotRules:
    """The rules for the snapshots of a project.

    - `exclude`: patterns of paths to leave out. The last pattern that matches a path decides, and one with `!` in front
      keeps it.
    - `rebuild`: shell commands to run after a restore.
    - `problem`: why the project's file is not used, or None.
    """

    exclude: tuple[str, ...] = DEFAULT_EXCLUDE
    rebuild: tuple[str, ...] = ()
    problem: str | None = None


def parse_rules(text: bytes, default: Sequence[str]) -> SnapshotRules:
    """Return the rules in a project's file, added to the patterns `default`. Raises RulesRefused for an invalid
    file.
    """
    if len(text) > _BYTES:
        raise RulesRefused(f"larger than {_BYTES} bytes")
    try:
        value = yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RulesRefused(f"not YAML: {str(error).splitlines()[0]}") from None
    known = {"exclude", "include", "rebuild"}
    if not isinstance(value, dict) or not set(value) <= known:
        raise RulesRefused("must be a mapping of exclude, include and rebuild")
    lists = {name: _strings(value.get(name, []), name) for name in known}
    kept = tuple(f"!{pattern.lstrip('!')}" for pattern in lists["include"])
    return SnapshotRules((*default, *lists["exclude"], *kept), lists["rebuild"])


def _strings(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > _PATTERNS:
        raise RulesRefused(f"{name} must be a list of at most {_PATTERNS} strings")
    if not all(isinstance(one, str) and 0 < len(one) <= 1000 for one in value):
        raise RulesRefused(f"{name} must be a list of strings of at most 1,000 characters")
    return tuple(value)


async def read_rules(sandbox: Sandbox, default: Sequence[str] = DEFAULT_EXCLUDE) -> SnapshotRules:
    """Read the project's rules from its sandbox.

    Returns the defaults when the project has no rules file. If the file cannot be used, also sets `problem`.
    """
    try:
        return parse_rules(await sandbox.read_file(RULES_FILE, limit=_BYTES + 1), default)
    except RulesRefused as error:
        return SnapshotRules(tuple(default), problem=f"the default rules are used: {error}")
    except FileRefused as error:
        missing = error.kind in {"not_found", "not_directory"}
        return SnapshotRules(
            tuple(default), problem=None if missing else f"the default rules are used: {error}"
        )
