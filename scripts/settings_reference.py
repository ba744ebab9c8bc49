#!/usr/bin/env python3
"""Writes docs/reference/settings.md and the list of known variables from the settings classes of all members.

settings_reference.py            write both files
settings_reference.py --check    exit with 1 when one of them is not up to date

The meaning of a setting is the comment at its field.
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from nightshift.budget.settings import BudgetSettings
from nightshift.bus.settings import KafkaSettings
from nightshift.cli.settings import ProducerSettings
from nightshift.eventlog.settings import PREFIX, Environment, ObjectStoreSettings, PostgresSettings
from nightshift.orchestrator.settings import OrchestratorSettings
from nightshift.relay.settings import RelaySettings
from nightshift.sandbox_gateway.settings import GatewaySettings
from nightshift.sandboxes.settings import SandboxSettings, SnapshotSettings
from nightshift.servicekit.settings import ProcessSettings
from nightshift.snapshotter.settings import SnapshotterSettings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reference/settings.md"
NAMES = ROOT / "libs/eventlog/src/nightshift/eventlog/setting_names.py"

SERVICES: dict[str, type[Environment]] = {
    "orchestrator": OrchestratorSettings,
    "sandbox-gateway": GatewaySettings,
    "snapshotter": SnapshotterSettings,
    "budget": BudgetSettings,
    "relay": RelaySettings,
}
SECTIONS: dict[str, type[Environment]] = {
    "Every process": ProcessSettings,
    "PostgreSQL": PostgresSettings,
    "Kafka": KafkaSettings,
    "Object store": ObjectStoreSettings,
    "Sandboxes": SandboxSettings,
    "Snapshots": SnapshotSettings,
    **{name.capitalize(): kind for name, kind in SERVICES.items()},
    "Commands that send requests": ProducerSettings,
}
#: Variables that no settings class reads, with their readers and meanings.
OTHERS = {
    "NIGHTSHIFT_BROKER_MEMORY_MB": (
        "`up`",
        "Megabytes at which `up` restarts the embedded broker. Default: 64.",
    ),
    "NIGHTSHIFT_SETUP_LOCKED": ("`make setup`", "Set by the script itself."),
    "NIGHTSHIFT_POSTGRES_BIN": ("tests", "Folder of the programs of the PostgreSQL that tests run on."),
    "NIGHTSHIFT_TEST_SEED": ("tests", "Seed of the tests that draw faults."),
    "NIGHTSHIFT_SEED": ("tests", "Seed of the tests of the egress proxy."),
    "NIGHTSHIFT_KAFKA": ("tests", "`testcontainers` runs the broker of the tests in a container."),
    "NIGHTSHIFT_ENVD": ("tests", "E2B's own envd, for `make test-envd`."),
    "NIGHTSHIFT_E2B_JS": ("tests", "Folder of E2B's JavaScript client, for `make test-e2b-js`."),
    "NIGHTSHIFT_LONG_BUILD": ("tests", "Runs `make test-long-build`."),
    "NIGHTSHIFT_LONG_TESTS": ("tests", "Runs the tests that take long."),
    "NIGHTSHIFT_LONG_FAULTS": ("tests", "Runs `make test-long`."),
    "NIGHTSHIFT_ALERT_FAULTS": ("tests", "Runs `make test-alerts`."),
    "NIGHTSHIFT_DOCS": ("tests", "Runs `make test-docs`."),
    "NIGHTSHIFT_PROMETHEUS_BIN": ("tests", "The folder with `prometheus` and `promtool`."),
    "NIGHTSHIFT_TIME_TRAVEL": ("tests", "Runs `make test-time`."),
    "NIGHTSHIFT_REGISTRY_TESTS": ("tests", "Runs `make test-registries`."),
    "NIGHTSHIFT_GARBAGE_ROUNDS": ("tests", "Rounds of `make test-garbage`."),
    "NIGHTSHIFT_TREE_SNAPSHOTS": ("tests", "Snapshots of `make test-trees`."),
    "NIGHTSHIFT_TREE_LARGEST": ("tests", "Bytes of the largest file of `make test-trees`."),
}
_UNITS = {
    "_s": "seconds",
    "_seconds": "seconds",
    "_bytes": "bytes",
    "_microusd": "microdollars",
    "_days": "days",
    "_tokens": "tokens",
}
_WORDS = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    Path: "path",
    SecretStr: "secret",
}


def main(arguments: Sequence[str]) -> int:
    wanted = {PAGE: page(), NAMES: names()}
    if "--check" in arguments:
        stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text() != text]
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not up to date: run scripts/settings_reference.py")
        return 1 if stale else 0
    for path, text in wanted.items():
        path.write_text(text)
    return 0


def page() -> str:
    """Return the reference page."""
    parts = [_INTRODUCTION]
    for title, kind in SECTIONS.items():
        rows = [row(name, field, kind) for name, field in kind.model_fields.items() if name in own(kind)]
        if rows:
            head = "| variable | type | default | unit | read by | meaning |\n|---|---|---|---|---|---|"
            parts.append("\n".join([f"## {title}\n", head, *rows]))
    others = [f"| `{name}` | {reader} | {meaning} |" for name, (reader, meaning) in OTHERS.items()]
    parts.append(
        "\n".join(["## Command line and tests\n", "| variable | read by | meaning |\n|---|---|---|", *others])
    )
    return "\n\n".join(parts) + "\n"


def names() -> str:
    """Return the module with the names of all variables."""
    known = set(OTHERS) | {
        variable(name, field)
        for kind in (*SERVICES.values(), ProducerSettings)
        for name, field in kind.model_fields.items()
        if variable(name, field).startswith(PREFIX)
    }
    lines = "\n".join(f'        "{name}",' for name in sorted(known))
    return (
        '"""The names of all environment variables. scripts/settings_reference.py writes this file."""\n\n'
        f"from typing import Final\n\nKNOWN: Final = frozenset(\n    {{\n{lines}\n    }}\n)\n"
    )


def row(name: str, field: FieldInfo, kind: type[Environment]) -> str:
    readers = [service for service, settings in SERVICES.items() if name in settings.model_fields]
    cells = (
        f"`{variable(name, field)}`",
        type_of(field),
        default_of(name, field),
        unit_of(name),
        "all" if len(readers) == len(SERVICES) else ", ".join(readers) or "commands",
        comments(kind)[name],
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def own(kind: type[Environment]) -> set[str]:
    """Return the fields that this class itself declares, without those that it only makes optional."""
    inherited = {name for base in kind.__mro__[1:] for name in vars(base).get("__annotations__", {})}
    return set(vars(kind).get("__annotations__", {})) - inherited


def variable(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    if alias is None:
        return PREFIX + name.upper()
    return str(alias if isinstance(alias, str) else alias.choices[0])  # type: ignore[union-attr]


def type_of(field: FieldInfo) -> str:
    text = _type(field.annotation)
    limits = []
    for limit in field.metadata:
        for sign, key in ((">", "gt"), ("≥", "ge"), ("<", "lt"), ("≤", "le")):
            if (value := getattr(limit, key, None)) is not None:
                limits.append(f"{sign} {value:,}" if isinstance(value, int) else f"{sign} {value:g}")
        if (length := getattr(limit, "min_length", None)) and length > 1:
            limits.append(f"at least {length} characters")
    return ", ".join([text, *limits])


def _type(annotation: Any) -> str:
    choices = [one for one in getattr(annotation, "__args__", ()) if one is not type(None)]
    if annotation in _WORDS:
        return _WORDS[annotation]
    if choices and all(isinstance(one, str) for one in choices):
        return " or ".join(f"`{one}`" for one in choices)
    if getattr(annotation, "__origin__", None) is tuple:
        return "JSON list"
    return _type(choices[0]) if choices else "text"


def default_of(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return {"home": "`~/.local/state/nightshift`", "replica_id": "host name and process id"}[name]
    value = field.default
    if name == "snapshot_exclude":
        return "what package managers restore"
    if value is None or value == ():
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def unit_of(name: str) -> str:
    return next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), "")


@cache
def comments(kind: type[Environment]) -> dict[str, str]:
    """Return the comment of each field of a class: the lines above it and what follows in its own lines."""
    lines = textwrap.dedent(inspect.getsource(kind)).splitlines()
    found = {}
    for node in ast.walk(ast.parse("\n".join(lines))):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        first, last = node.lineno - 1, node.end_lineno or node.lineno
        above = []
        while lines[first - 1].strip().startswith("#"):
            first -= 1
            above.insert(0, lines[first].strip(" #"))
        beside = [line.split("  # ", 1)[1] for line in lines[node.lineno - 1 : last] if "  # " in line]
        beside = [text for text in beside if not text.startswith(("noqa", "type:"))]
        beside = [text.removeprefix("noqa: S104 - ") for text in beside]
        text = " ".join([*above, *beside]).strip()
        found[node.target.id] = text[:1].upper() + text[1:] + ("" if not text or text.endswith(".") else ".")
    return found


_INTRODUCTION = """# Settings

Written by `scripts/settings_reference.py` from the code. Every service reads its settings from environment variables,
once, when it starts. A setting that is missing or wrong ends the process with exit code 4 and a message that names it.
So does a variable that begins with `NIGHTSHIFT_` and is not in these tables: the message names the nearest one.
[Configuring](../configuring.md) says what to set for TLS, SASL, roles and buckets."""

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
